"""The table of diagnoses, row by row."""

from dataclasses import replace

import pytest

from nodepool_k8s.config.settings import LaunchSettings
from nodepool_k8s.kubernetes.diagnosis import (
    Observation,
    PodFailed,
    PodPending,
    PodReady,
    PodRejected,
    diagnose,
    diagnose_all,
    why_unusable,
)
from nodepool_k8s.model import Condition, ContainerState, Pod

LAUNCH = LaunchSettings()
POSTED = 1000.0


def pod(
    *containers: ContainerState,
    phase: str = "Pending",
    conditions: tuple[Condition, ...] = (Condition("PodScheduled", "True"),),
    host: str | None = "worker",
    reason: str = "",
    message: str = "",
    deleting: bool = False,
) -> Pod:
    return Pod(
        namespace="main-1",
        name="fedora",
        uid="u",
        phase=phase,
        conditions=conditions,
        containers=containers,
        host=host,
        reason=reason,
        message=message,
        deleting=deleting,
        scheduler="default-scheduler",
    )


def waiting(reason: str, message: str = "", *, init: bool = False) -> ContainerState:
    return ContainerState("fedora", "waiting", reason, message, init=init)


def terminated(reason: str, code: int, *, init: bool = False) -> ContainerState:
    return ContainerState("fedora", "terminated", reason, exit_code=code, init=init)


RUNNING = ContainerState("fedora", "running")
READY = (Condition("PodScheduled", "True"), Condition("Ready", "True"))
UNREADY = (Condition("PodScheduled", "True"), Condition("Ready", "False", message="no probe"))
UNSCHEDULABLE = (Condition("PodScheduled", "False", "Unschedulable", "0/1 nodes are available"),)
GATED = (Condition("PodScheduled", "False", "SchedulingGated", "waiting for a gate"),)


def once(pod: Pod, launch: LaunchSettings = LAUNCH, now: float = POSTED + 1) -> object:
    return diagnose((pod,), Observation(POSTED), now, launch)[0]


def test_ready_by_condition() -> None:
    ready = pod(RUNNING, phase="Running", conditions=READY)
    assert once(ready) == PodReady(ready)


def test_running_alone_is_not_ready_unless_the_label_says_so() -> None:
    running = pod(RUNNING, phase="Running", conditions=UNREADY)
    assert once(running) == PodPending(POSTED + 300, "no probe")
    assert once(running, LaunchSettings(ready_when="running")) == PodReady(running)


@pytest.mark.parametrize("reason", ["InvalidImageName", "ErrImageNeverPull"])
@pytest.mark.parametrize("init", [False, True])
def test_hopeless_at_once(reason: str, init: bool) -> None:
    verdict = once(pod(waiting(reason, "what it said", init=init)))
    assert isinstance(verdict, PodRejected)
    assert "fedora" in verdict.reason
    assert "what it said" in verdict.reason


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (pod(phase="Failed", reason="OutOfcpu", message="no cpu"), "OutOfcpu; no cpu"),
        (pod(phase="Failed", reason="NodeAffinity"), "NodeAffinity"),
        (pod(phase="Failed", reason="UnexpectedAdmissionError"), "UnexpectedAdmissionError"),
        (pod(phase="Failed", reason="Preempting"), "Preempting"),
        (pod(phase="Failed", reason="Shutdown"), "Shutdown"),
        (pod(terminated("Error", 3), phase="Failed"), "exit code 3"),
        (pod(terminated("Completed", 0), phase="Succeeded"), "Completed"),
        (pod(terminated("OOMKilled", 137), phase="Failed"), "OOMKilled"),
        (
            pod(
                conditions=(*READY, Condition("DisruptionTarget", "True", "EvictionByEvictionAPI"))
            ),
            "EvictionByEvictionAPI",
        ),
        (pod(waiting("CrashLoopBackOff", "back-off 10s")), "back-off 10s"),
        (pod(waiting("CrashLoopBackOff", init=True)), "init container fedora"),
        (pod(waiting("RunContainerError")), "RunContainerError"),
        (pod(RUNNING, phase="Running", conditions=READY, deleting=True), "being deleted"),
    ],
)
def test_fails_at_once(seen: Pod, told: str) -> None:
    verdict = once(seen)
    assert isinstance(verdict, PodFailed)
    assert told in verdict.reason
    assert not verdict.timed_out


@pytest.mark.parametrize(
    ("seen", "seconds"),
    [
        (pod(waiting("ErrImagePull", "no such image")), 120),
        (pod(waiting("ImagePullBackOff")), 120),
        (pod(waiting("ImageInspectError")), 120),
        (pod(waiting("ErrImagePull", init=True)), 120),
        (pod(waiting("CreateContainerError")), 10),
        (pod(waiting("CreateContainerConfigError")), 10),
        (pod(terminated("StartError", 128), phase="Running"), 10),
        (pod(terminated("OOMKilled", 137), phase="Running"), 10),
        (pod(waiting("PostStartHookError")), 10),
        (pod(conditions=UNSCHEDULABLE, host=None), 300),
        (pod(conditions=GATED, host=None), 300),
        (pod(conditions=(), host=None), 300),
    ],
)
def test_waits_for_a_time_and_then_fails(seen: Pod, seconds: float) -> None:
    first = POSTED + 2
    verdict, observed = diagnose((seen,), Observation(POSTED), first, LAUNCH)
    assert isinstance(verdict, PodPending)
    assert verdict.until == first + seconds
    just_before = first + seconds - 0.1
    assert isinstance(diagnose((seen,), observed, just_before, LAUNCH)[0], PodPending)
    verdict, _ = diagnose((seen,), observed, first + seconds, LAUNCH)
    assert isinstance(verdict, PodFailed)


def test_reasons_tell_what_helps() -> None:
    missing = once(pod(waiting("ErrImagePull", "manifest unknown")))
    assert isinstance(missing, PodPending)
    assert missing.reason == "container fedora: ErrImagePull: manifest unknown"
    unschedulable = once(pod(conditions=UNSCHEDULABLE, host=None))
    assert isinstance(unschedulable, PodPending)
    assert unschedulable.reason == "Unschedulable: 0/1 nodes are available"
    silent = once(pod(conditions=(), host=None))
    assert isinstance(silent, PodPending)
    assert silent.reason == "scheduler default-scheduler has not answered"


def test_two_image_reasons_run_on_one_clock() -> None:
    observed = Observation(POSTED)
    # Between two pulls there may be no reason at all for a moment.
    reasons = ["ErrImagePull", "ImagePullBackOff", "ContainerCreating", "ErrImagePull"]
    for second, reason in enumerate(reasons):
        verdict, observed = diagnose((pod(waiting(reason)),), observed, POSTED + second, LAUNCH)
    assert isinstance(verdict, PodPending)
    assert verdict.until == POSTED + 120


def test_a_clock_starts_anew_after_progress() -> None:
    observed = Observation(POSTED)
    steps = [
        pod(waiting("ErrImagePull", init=True)),
        pod(ContainerState("fedora", "running", init=True)),
        pod(waiting("ErrImagePull")),
    ]
    for second, seen in enumerate(steps):
        verdict, observed = diagnose((seen,), observed, POSTED + 50 * second, LAUNCH)
    assert isinstance(verdict, PodPending)
    assert verdict.until == POSTED + 100 + 120


def test_a_pod_that_waited_for_a_node_gets_its_full_time_there() -> None:
    launch = LaunchSettings(unschedulable_timeout=600)
    observed = Observation(POSTED)
    waits = pod(conditions=UNSCHEDULABLE, host=None)
    verdict, observed = diagnose((waits,), observed, POSTED, launch)
    assert isinstance(verdict, PodPending)
    assert verdict.until == POSTED + 600
    creating = pod(waiting("ContainerCreating"))
    verdict, observed = diagnose((creating,), observed, POSTED + 590, launch)
    assert verdict == PodPending(POSTED + 590 + 300, "container fedora: ContainerCreating")


def test_nothing_decisive_ends_with_the_launch_timeout() -> None:
    creating = pod(waiting("ContainerCreating"))
    assert once(creating) == PodPending(POSTED + 300, "container fedora: ContainerCreating")
    ended = once(creating, now=POSTED + 300)
    assert ended == PodFailed("timed out: container fedora: ContainerCreating", timed_out=True)


def test_a_pod_not_seen_yet_is_waited_for() -> None:
    verdict, observed = diagnose((), Observation(POSTED), POSTED + 1, LAUNCH)
    assert verdict == PodPending(POSTED + 300, "the pod is not seen yet")
    assert not observed.seen


def test_a_pod_deleted_under_us_fails_the_attempt() -> None:
    _, observed = diagnose(
        (pod(waiting("ContainerCreating")),), Observation(POSTED), POSTED, LAUNCH
    )
    verdict, _ = diagnose((), observed, POSTED + 1, LAUNCH)
    assert isinstance(verdict, PodFailed)


def test_the_last_end_of_a_restarted_container_is_told() -> None:
    crashed = ContainerState(
        "fedora", "waiting", "CrashLoopBackOff", last_reason="OOMKilled", last_exit_code=137
    )
    verdict = once(pod(crashed, phase="Running"))
    assert isinstance(verdict, PodFailed)
    assert "it ended before: OOMKilled (exit code 137)" in verdict.reason


def test_a_ready_node_is_checked_before_it_is_reused() -> None:
    ready = pod(RUNNING, phase="Running", conditions=READY)
    assert why_unusable((ready,), LAUNCH) is None
    assert why_unusable((), LAUNCH) == "the pod is gone"
    assert why_unusable((pod(RUNNING, phase="Running", conditions=UNREADY),), LAUNCH) == (
        "the pod is not ready: no probe"
    )
    ended = pod(terminated("Completed", 0), phase="Succeeded")
    assert "Succeeded" in (why_unusable((ended,), LAUNCH) or "")


# --- a node of several pods -------------------------------------------------------------------

NAMES = ("fedora", "fedora-1", "fedora-2")
POSTED_ALL = dict.fromkeys(NAMES, Observation(POSTED))


def replicas(*pods: Pod) -> tuple[Pod, ...]:
    return tuple(replace(each, name=name) for name, each in zip(NAMES, pods, strict=False))


def of_all(pods: tuple[Pod, ...], now: float = POSTED + 1) -> object:
    return diagnose_all(pods, POSTED_ALL, now, LAUNCH)[0]


def test_all_pods_have_to_be_ready() -> None:
    ready = pod(RUNNING, phase="Running", conditions=READY)
    pods = replicas(ready, ready, ready)
    assert of_all(pods[::-1]) == PodReady(pods[0])
    until = POSTED + LAUNCH.launch_timeout
    unseen = "2 of 3 pods are ready; pod fedora-2: the pod is not seen yet"
    assert of_all(pods[:2]) == PodPending(until, unseen)
    unready = replicas(pod(phase="Pending"), ready, ready)
    waits = of_all(unready)
    assert isinstance(waits, PodPending)
    assert waits.reason.startswith("2 of 3 pods are ready; pod fedora: ")


def test_a_failed_pod_fails_the_node_and_is_named() -> None:
    ready = pod(RUNNING, phase="Running", conditions=READY)
    failed = pod(phase="Failed", reason="Evicted")
    verdict = of_all(replicas(ready, failed, pod()))
    assert verdict == PodFailed("pod fedora-1: the pod ended (Failed): Evicted")
    hopeless = pod(waiting("InvalidImageName"))
    assert isinstance(of_all(replicas(failed, ready, hopeless)), PodRejected)


def test_a_pod_that_was_there_and_is_gone_fails_the_node() -> None:
    ready = pod(RUNNING, phase="Running", conditions=READY)
    _, seen = diagnose_all(replicas(ready, pod(), pod()), POSTED_ALL, POSTED + 1, LAUNCH)
    verdict, _ = diagnose_all(replicas(ready, pod()), seen, POSTED + 2, LAUNCH)
    assert verdict == PodFailed("pod fedora-2: the pod was deleted by somebody else")


def test_one_pod_is_spoken_of_without_its_name() -> None:
    verdict, _ = diagnose_all((), {"fedora": Observation(POSTED)}, POSTED + 1, LAUNCH)
    assert verdict == PodPending(POSTED + LAUNCH.launch_timeout, "the pod is not seen yet")


def test_a_ready_node_needs_all_of_its_pods() -> None:
    ready = pod(RUNNING, phase="Running", conditions=READY)
    assert why_unusable(replicas(ready, ready), LAUNCH, 2) is None
    assert why_unusable(replicas(ready, ready), LAUNCH, 3) == "of its 3 pods 1 are gone"
    failed = pod(phase="Failed")
    assert why_unusable(replicas(ready, failed), LAUNCH, 2) == "the pod ended (Failed)"
