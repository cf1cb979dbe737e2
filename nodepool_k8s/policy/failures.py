"""Which kind of failure an attempt to launch a node was: one of a few, for figures.

The reason that people read is free text and lives in the log and in the request; a
metric's label must not be. Decides from what the diagnosis saw, not from its text.
"""

from __future__ import annotations

import re
from enum import StrEnum

from nodepool_k8s.errors import ApiError, KubernetesError, SourceUnusable
from nodepool_k8s.model import Pod
from nodepool_k8s.policy.diagnosis import (
    FAILING_REASONS,
    IMAGE_REASONS,
    PERMANENT_REASONS,
    START_REASONS,
)


class Failure(StrEnum):
    """The kinds. Their values are values of the metrics' label ``reason``."""

    IMAGE = "image"
    """The image's name, its registry or its credentials."""
    START = "start"
    """A container could not be started."""
    CRASHED = "crashed"
    """A container was started and ended badly."""
    ENDED = "ended"
    """The pod ended, which no node's pod should."""
    EVICTED = "evicted"
    """The cluster took the pod back: evicted, preempted, shut down with its machine."""
    DELETED = "deleted"
    """Somebody deleted the pod."""
    UNSCHEDULABLE = "unschedulable"
    """No machine would take it, or no scheduler answered."""
    TIMEOUT = "timeout"
    """Nothing decisive was seen until ``launch-timeout``."""
    QUOTA = "quota"
    """A ResourceQuota of the cluster refused it."""
    REFUSED = "refused"
    """The API server will never accept it: the label, the cluster's policy, our rights."""
    SOURCE = "source"
    """A Secret or ConfigMap that the node was to get a copy of was not there, or not fit."""
    CHECK = "check"
    """The pod was ready, and ``ready-check`` could not run its command in it."""
    API = "api"
    """The API server did not answer, or failed."""
    SESSION = "session"
    """The ZooKeeper session ended under the launch."""
    UNKNOWN = "unknown"


_TAKEN_BACK = frozenset({"Evicted", "Preempting", "Shutdown", "NodeShutdown", "Terminated"})
_REFUSED_BY_QUOTA = re.compile(r"(exceeded|failed|insufficient) quota", re.IGNORECASE)
_PASSING = re.compile(r"being terminated|serviceaccount \S+ not found|status unknown for quota")


def of_refusal(error: BaseException) -> Failure:
    """Tell what a refused or failed call was."""
    if not isinstance(error, KubernetesError):
        return Failure.UNKNOWN
    if isinstance(error, SourceUnusable):
        return Failure.SOURCE
    if not isinstance(error, ApiError) or _PASSING.search(error.message):
        return Failure.API
    if _REFUSED_BY_QUOTA.search(error.message):
        return Failure.QUOTA
    passing = error.status in (401, 408, 409, 429) or error.status >= 500
    return Failure.API if passing else Failure.REFUSED


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
