"""What a pod's status means for the launch of a node. Pure.

Decides only: ready, wait (until when, for what), this attempt failed, or no attempt can
succeed. The table is in the architecture page. Clocks and records come as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nodepool_k8s.config.settings import LaunchSettings
from nodepool_k8s.model import ContainerState, Pod

# --- verdicts ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PodReady:
    """The pod can be handed over."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class PodPending:
    """Undecided: look again when something changes, and at ``until``."""

    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class PodFailed:
    """This attempt failed; another may succeed.

    ``timed_out``: nothing decisive was seen, so Warning events may explain more.
    """

    reason: str
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class PodRejected:
    """No attempt can succeed: the configuration or the cluster must change first."""

    reason: str


# --- what a pod's status means ---------------------------------------------------------------

NOT_ABOUT_IMAGES_SECONDS = 10.0
"""How long a container may fail to start for reasons that are not about its image."""

PERMANENT_REASONS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
FAILING_REASONS = frozenset({"CrashLoopBackOff", "RunContainerError"})
IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
"""The first two alternate, so all of them run on one clock."""
START_REASONS = frozenset(
    {
        "CreateContainerError",
        "CreateContainerConfigError",
        "StartError",
        "ContainerCannotRun",
        "OOMKilled",
        "PreCreateHookError",
        "PreStartHookError",
        "PostStartHookError",
    }
)


@dataclass(frozen=True, slots=True)
class Observation:
    """Since when something has been seen, from one diagnosis to the next.

    Begin with ``Observation(posted=now)`` for every attempt, and pass on what ``diagnose``
    returns.
    """

    posted: float
    seen: bool = False
    """The pod was seen: if it is missing later, it was deleted."""
    image_since: float | None = None
    start_since: float | None = None
    scheduling_since: float | None = None
    scheduled: float | None = None
    """When it was scheduled, if it had to wait for that."""


Verdict = PodReady | PodPending | PodFailed | PodRejected

Observations = Mapping[str, Observation]
"""By the name of the pod."""


def diagnose_all(
    pods: tuple[Pod, ...], observed: Observations, now: float, launch: LaunchSettings
) -> tuple[Verdict, Observations]:
    """Judge a node's pods; the node is ready when all of them are.

    ``observed`` has an observation for each pod that there is to be, the first one first.
    """
    verdicts: dict[str, Verdict] = {}
    seen: dict[str, Observation] = {}
    for name, observation in observed.items():
        own = tuple(pod for pod in pods if pod.name == name)
        verdicts[name], seen[name] = diagnose(own, observation, now, launch)
    return _together(verdicts), seen


def _together(verdicts: Mapping[str, Verdict]) -> Verdict:
    for kind in (PodRejected, PodFailed):
        for name, verdict in verdicts.items():
            if isinstance(verdict, kind):
                return _of(name, verdict) if len(verdicts) > 1 else verdict
    waits = {name: verdict for name, verdict in verdicts.items() if isinstance(verdict, PodPending)}
    if not waits:
        return next(iter(verdicts.values()))
    name, first = next(iter(waits.items()))
    if len(verdicts) == 1:
        return first
    ready = len(verdicts) - len(waits)
    reason = f"{ready} of {len(verdicts)} pods are ready; pod {name}: {first.reason}"
    return PodPending(min(wait.until for wait in waits.values()), reason)


def _of(name: str, verdict: PodFailed | PodRejected) -> Verdict:
    return replace(verdict, reason=f"pod {name}: {verdict.reason}")


def diagnose(
    pods: tuple[Pod, ...], observed: Observation, now: float, launch: LaunchSettings
) -> tuple[Verdict, Observation]:
    """Judge one pod of a node."""
    if not pods:
        if observed.seen:
            return PodFailed("the pod was deleted by somebody else"), observed
        until = observed.posted + launch.launch_timeout
        return _patience(until, now, "the pod is not seen yet"), observed
    pod = pods[0]
    observed = _observe(pod, now, observed)
    verdict = (
        _ended(pod)
        or _ready(pod, launch)
        or _container_trouble(pod, now, launch, observed)
        or _scheduling(pod, now, launch, observed)
        or _patience(_deadline(launch, observed), now, _progress(pod))
    )
    return verdict, observed


def why_unusable(pods: tuple[Pod, ...], launch: LaunchSettings, count: int = 1) -> str | None:
    """Why a ready node cannot be handed over; None where it can.

    ``count`` is of how many pods it is made.
    """
    if not pods:
        return "the pod is gone"
    if len(pods) < count:
        return f"of its {count} pods {count - len(pods)} are gone"
    return next(filter(None, (_why_unusable(pod, launch) for pod in pods)), None)


def _why_unusable(pod: Pod, launch: LaunchSettings) -> str | None:
    ended = _ended(pod)
    if ended is not None:
        return ended.reason
    return None if _ready(pod, launch) else f"the pod is not ready: {_progress(pod)}"


def _observe(pod: Pod, now: float, observed: Observation) -> Observation:
    """Run each clock from when its trouble was first seen until it is over."""
    waits = _waits_for_scheduler(pod)
    image, start = _first(pod, IMAGE_REASONS), _stuck_start(pod)
    # Between two pulls the reason may be missing for a moment; progress is a container
    # that no longer waits.
    waiting = any(container.state == "waiting" for container in pod.containers)
    keeps_image = image is not None or (waiting and observed.image_since is not None)
    was_waiting = observed.scheduling_since is not None
    return replace(
        observed,
        seen=True,
        image_since=_clock(observed.image_since, now, running=keeps_image),
        start_since=_clock(observed.start_since, now, running=start is not None),
        scheduling_since=_clock(observed.scheduling_since, now, running=waits),
        scheduled=now if was_waiting and not waits else observed.scheduled,
    )


def _clock(since: float | None, now: float, *, running: bool) -> float | None:
    if not running:
        return None
    return now if since is None else since


def _ended(pod: Pod) -> PodFailed | None:
    if pod.deleting:
        return PodFailed(f"the pod is being deleted{_because(pod.reason, pod.message)}")
    if pod.phase in ("Failed", "Succeeded"):
        causes = [_tell(entry) for entry in pod.containers if entry.state == "terminated"]
        detail = _because(pod.reason, pod.message) or _because(*causes)
        return PodFailed(f"the pod ended ({pod.phase}){detail}")
    disrupted = pod.condition("DisruptionTarget")
    if disrupted is not None and disrupted.status == "True":
        return PodFailed(f"the pod is being evicted{_because(disrupted.reason, disrupted.message)}")
    return None


def _ready(pod: Pod, launch: LaunchSettings) -> PodReady | None:
    condition = pod.condition("Ready")
    is_ready = condition is not None and condition.status == "True"
    if is_ready or (launch.ready_when == "running" and pod.phase == "Running"):
        return PodReady(pod)
    return None


def _container_trouble(
    pod: Pod, now: float, launch: LaunchSettings, observed: Observation
) -> Verdict | None:
    if (container := _first(pod, PERMANENT_REASONS)) is not None:
        return PodRejected(_tell(container))
    if (container := _first(pod, FAILING_REASONS)) is not None:
        return PodFailed(_tell(container))
    image = _first(pod, IMAGE_REASONS)
    if image is not None and observed.image_since is not None:
        return _patience(observed.image_since + launch.image_pull_timeout, now, _tell(image))
    start = _stuck_start(pod)
    if start is not None and observed.start_since is not None:
        return _patience(observed.start_since + NOT_ABOUT_IMAGES_SECONDS, now, _tell(start))
    return None


def _scheduling(
    pod: Pod, now: float, launch: LaunchSettings, observed: Observation
) -> Verdict | None:
    if observed.scheduling_since is None:
        return None
    timeout = launch.unschedulable_timeout
    until = observed.scheduling_since + (launch.launch_timeout if timeout is None else timeout)
    condition = pod.condition("PodScheduled")
    if condition is None:
        return _patience(until, now, f"scheduler {pod.scheduler or '?'} has not answered")
    return _patience(until, now, f"{condition.reason}{_because(condition.message)}")


def _waits_for_scheduler(pod: Pod) -> bool:
    if pod.host is not None or pod.phase != "Pending":
        return False
    condition = pod.condition("PodScheduled")
    return condition is None or condition.status == "False"


def _deadline(launch: LaunchSettings, observed: Observation) -> float:
    """A pod that had to wait for a node gets its full time on that node."""
    begun = observed.posted if observed.scheduled is None else observed.scheduled
    return begun + launch.launch_timeout


def _patience(until: float, now: float, reason: str) -> PodPending | PodFailed:
    return (
        PodPending(until, reason)
        if now < until
        else PodFailed(f"timed out: {reason}", timed_out=True)
    )


def _first(pod: Pod, reasons: frozenset[str]) -> ContainerState | None:
    return next((entry for entry in pod.containers if entry.reason in reasons), None)


def _stuck_start(pod: Pod) -> ContainerState | None:
    """A container that failed to start, or ended badly and was not started again."""
    return next(
        (
            entry
            for entry in pod.containers
            if entry.reason in START_REASONS or (entry.state == "terminated" and entry.exit_code)
        ),
        None,
    )


def _progress(pod: Pod) -> str:
    """What the pod is doing, by the state of its containers."""
    unready = [_tell(entry) for entry in pod.containers if entry.state != "running"]
    condition = pod.condition("Ready")
    if not unready and condition is not None and condition.message:
        unready = [condition.message]
    return "; ".join(unready) or f"the pod is {pod.phase}"


def _tell(container: ContainerState) -> str:
    kind = "init container" if container.init else "container"
    ended = f" (exit code {container.exit_code})" if container.exit_code is not None else ""
    before = ""
    if container.last_reason:
        code = container.last_exit_code
        before = f"; it ended before: {container.last_reason}"
        before += "" if code is None else f" (exit code {code})"
    state = container.reason or container.state
    detail = f": {container.message}" if container.message else ""
    return f"{kind} {container.name}: {state}{ended}{detail}{before}"


def _because(*parts: str) -> str:
    told = "; ".join(part for part in parts if part)
    return f": {told}" if told else ""
