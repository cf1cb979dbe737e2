"""Which kind of failure the pods of a failed attempt show: one of a few, for metrics. Pure.

The reason that people read is free text and lives in the log and in the request; a
metric's label must not be. Decides from what the diagnosis saw, not from its text.
"""

from __future__ import annotations

from nodepool_k8s.drivers.outcomes import Failure
from nodepool_k8s.kubernetes.diagnosis import (
    FAILING_REASONS,
    IMAGE_REASONS,
    PERMANENT_REASONS,
    START_REASONS,
)
from nodepool_k8s.model import Pod

_TAKEN_BACK = frozenset({"Evicted", "Preempting", "Shutdown", "NodeShutdown", "Terminated"})


def of_pods(pods: tuple[Pod, ...], *, timed_out: bool, count: int = 1) -> Failure:
    """Tell what a node's pods had come to when the attempt was given up.

    ``timed_out``: the diagnosis had waited as long as it may. ``count`` is how many pods
    there were to be.
    """
    for pod in pods:
        if found := _ended(pod) or _trouble(pod):
            return found
    if len(pods) < count:
        return Failure.TIMEOUT if timed_out else Failure.DELETED
    waited = [_waited(pod, timed_out=timed_out) for pod in pods]
    return Failure.UNSCHEDULABLE if Failure.UNSCHEDULABLE in waited else waited[0]


def _ended(pod: Pod) -> Failure | None:
    disrupted = pod.condition("DisruptionTarget")
    if pod.reason in _TAKEN_BACK or (disrupted is not None and disrupted.status == "True"):
        return Failure.EVICTED
    if pod.deleting:
        return Failure.DELETED
    return Failure.ENDED if pod.phase in ("Failed", "Succeeded") else None


def _trouble(pod: Pod) -> Failure | None:
    reasons = {container.reason for container in pod.containers}
    if reasons & (PERMANENT_REASONS | IMAGE_REASONS):
        return Failure.IMAGE
    if reasons & FAILING_REASONS:
        return Failure.CRASHED
    if reasons & START_REASONS:
        return Failure.START
    badly = any(entry.state == "terminated" and entry.exit_code for entry in pod.containers)
    return Failure.CRASHED if badly else None


def _waited(pod: Pod, *, timed_out: bool) -> Failure:
    scheduled = pod.condition("PodScheduled")
    unscheduled = scheduled is None or scheduled.status == "False"
    if pod.phase == "Pending" and pod.host is None and unscheduled:
        return Failure.UNSCHEDULABLE
    return Failure.TIMEOUT if timed_out else Failure.UNKNOWN
