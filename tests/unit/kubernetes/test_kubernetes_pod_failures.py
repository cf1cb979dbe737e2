"""Each kind of failure, from what the diagnosis sees; and that no other kind comes out."""

import pytest

from nodepool_k8s.drivers.outcomes import Failure
from nodepool_k8s.errors import (
    ApiError,
)
from nodepool_k8s.kubernetes.pod_failures import of_pods
from nodepool_k8s.model import Condition, ContainerState, Pod


def refused(status: int, message: str = "") -> ApiError:
    return ApiError(status, "Reason", message)


def pod(phase: str = "Pending", **fields: object) -> Pod:
    return Pod("ns", "pod", "uid", phase, **fields)  # type: ignore[arg-type]


def container(reason: str, state: str = "waiting", code: int | None = None) -> ContainerState:
    return ContainerState("pod", state, reason, exit_code=code)


DISRUPTED = (Condition("DisruptionTarget", "True", "EvictionByEvictionAPI"),)
UNSCHEDULED = (Condition("PodScheduled", "False", "Unschedulable"),)
SCHEDULED = (Condition("PodScheduled", "True"),)


@pytest.mark.parametrize(
    ("found", "timed_out", "failure"),
    [
        (None, False, Failure.DELETED),
        (None, True, Failure.TIMEOUT),
        (pod("Running", deleting=True), False, Failure.DELETED),
        (pod("Running", deleting=True, conditions=DISRUPTED), False, Failure.EVICTED),
        (pod("Failed", reason="Evicted"), False, Failure.EVICTED),
        (pod("Failed", reason="Preempting"), False, Failure.EVICTED),
        (pod("Running", conditions=DISRUPTED), False, Failure.EVICTED),
        (pod("Failed", reason="OutOfcpu"), False, Failure.ENDED),
        (pod("Succeeded"), False, Failure.ENDED),
        (pod(containers=(container("InvalidImageName"),)), False, Failure.IMAGE),
        (pod(containers=(container("ErrImageNeverPull"),)), False, Failure.IMAGE),
        (pod(containers=(container("ImagePullBackOff"),)), True, Failure.IMAGE),
        (pod("Running", containers=(container("CrashLoopBackOff"),)), False, Failure.CRASHED),
        (pod(containers=(container("CreateContainerConfigError"),)), True, Failure.START),
        (pod(containers=(container("Error", "terminated", 3),)), True, Failure.CRASHED),
        (pod(conditions=UNSCHEDULED), True, Failure.UNSCHEDULABLE),
        (pod(scheduler="nobody"), True, Failure.UNSCHEDULABLE),
        (pod(conditions=SCHEDULED, host="node"), True, Failure.TIMEOUT),
        (pod("Running", host="node"), False, Failure.UNKNOWN),
    ],
)
def test_what_had_become_of_the_pod(found: Pod | None, timed_out: bool, failure: Failure) -> None:
    pods = (found,) if found else ()
    assert of_pods(pods, timed_out=timed_out) is failure


def test_of_several_pods_one_tells() -> None:
    fine, evicted = pod("Running"), pod(conditions=DISRUPTED)
    assert of_pods((fine, evicted), timed_out=False, count=2) is Failure.EVICTED
    assert of_pods((fine,), timed_out=False, count=2) is Failure.DELETED
    assert of_pods((fine,), timed_out=True, count=2) is Failure.TIMEOUT
    waits = pod(conditions=UNSCHEDULED)
    assert of_pods((fine, waits), timed_out=True, count=2) is Failure.UNSCHEDULABLE
    assert of_pods((fine, fine), timed_out=True, count=2) is Failure.TIMEOUT
