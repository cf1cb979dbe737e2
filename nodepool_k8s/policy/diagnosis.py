"""What a pod's status, or a refusal of the API server, means for the launch of a node.

Decides only: ready, wait (until when, for what), this attempt failed, or no attempt can
succeed. The table is in the architecture page. Clocks and records come as arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nodepool_k8s.config.settings import LaunchSettings
from nodepool_k8s.errors import ApiError, KubernetesError, SourceUnusable, describe
from nodepool_k8s.model import ContainerState, Pod
from nodepool_k8s.policy.quantities import parse_quantity

# --- verdicts ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The pod can be handed over."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is decided: look again when something changes, and at ``until``."""

    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class Retryable:
    """This attempt failed; another may succeed.

    ``timed_out`` says that nothing decisive was seen: Warning events may tell more.
    """

    reason: str
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Permanent:
    """No attempt can succeed: the configuration or the cluster must change first."""

    reason: str


@dataclass(frozen=True, slots=True)
class QuotaWait:
    """A ResourceQuota is used up, and the node would fit into it: the pool waits."""

    reason: str


@dataclass(frozen=True, slots=True)
class Transient:
    """Try the same call again, after a back-off of at least ``retry_after`` seconds."""

    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Adopt:
    """The object is there already: if it is ours, an earlier try had succeeded."""

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
    """The pod was there once: if it is not any more, somebody removed it."""
    image_since: float | None = None
    start_since: float | None = None
    scheduling_since: float | None = None
    scheduled: float | None = None
    """When it was scheduled, if it had to wait for that."""


Verdict = Ready | Wait | Retryable | Permanent

Observations = Mapping[str, Observation]
"""By the name of the pod."""


def diagnose_all(
    pods: tuple[Pod, ...], observed: Observations, now: float, launch: LaunchSettings
) -> tuple[Verdict, Observations]:
    """Decide what a node's pods have come to; it is ready when all of them are.

    ``observed`` has an observation for each pod that there is to be, the first one first.
    """
    verdicts: dict[str, Verdict] = {}
    seen: dict[str, Observation] = {}
    for name, observation in observed.items():
        own = tuple(pod for pod in pods if pod.name == name)
        verdicts[name], seen[name] = diagnose(own, observation, now, launch)
    return _together(verdicts), seen


def _together(verdicts: Mapping[str, Verdict]) -> Verdict:
    for kind in (Permanent, Retryable):
        for name, verdict in verdicts.items():
            if isinstance(verdict, kind):
                return _of(name, verdict) if len(verdicts) > 1 else verdict
    waits = {name: verdict for name, verdict in verdicts.items() if isinstance(verdict, Wait)}
    if not waits:
        return next(iter(verdicts.values()))
    name, first = next(iter(waits.items()))
    if len(verdicts) == 1:
        return first
    ready = len(verdicts) - len(waits)
    reason = f"{ready} of {len(verdicts)} pods are ready; pod {name}: {first.reason}"
    return Wait(min(wait.until for wait in waits.values()), reason)


def _of(name: str, verdict: Retryable | Permanent) -> Verdict:
    return replace(verdict, reason=f"pod {name}: {verdict.reason}")


def diagnose(
    pods: tuple[Pod, ...], observed: Observation, now: float, launch: LaunchSettings
) -> tuple[Verdict, Observation]:
    """Decide what the pods of a node have come to."""
    if not pods:
        if observed.seen:
            return Retryable("the pod was deleted by somebody else"), observed
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
    """Tell why a ready node cannot be handed over after all; None where it can.

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


def _ended(pod: Pod) -> Retryable | None:
    if pod.deleting:
        return Retryable(f"the pod is being deleted{_because(pod.reason, pod.message)}")
    if pod.phase in ("Failed", "Succeeded"):
        causes = [_tell(entry) for entry in pod.containers if entry.state == "terminated"]
        detail = _because(pod.reason, pod.message) or _because(*causes)
        return Retryable(f"the pod ended ({pod.phase}){detail}")
    disrupted = pod.condition("DisruptionTarget")
    if disrupted is not None and disrupted.status == "True":
        return Retryable(f"the pod is being evicted{_because(disrupted.reason, disrupted.message)}")
    return None


def _ready(pod: Pod, launch: LaunchSettings) -> Ready | None:
    condition = pod.condition("Ready")
    is_ready = condition is not None and condition.status == "True"
    if is_ready or (launch.ready_when == "running" and pod.phase == "Running"):
        return Ready(pod)
    return None


def _container_trouble(
    pod: Pod, now: float, launch: LaunchSettings, observed: Observation
) -> Verdict | None:
    if (container := _first(pod, PERMANENT_REASONS)) is not None:
        return Permanent(_tell(container))
    if (container := _first(pod, FAILING_REASONS)) is not None:
        return Retryable(_tell(container))
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


def _patience(until: float, now: float, reason: str) -> Wait | Retryable:
    return Wait(until, reason) if now < until else Retryable(f"timed out: {reason}", timed_out=True)


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
    """What the pod is at, as far as its containers tell."""
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


# --- what the API server answered -----------------------------------------------------------

PERMANENT_STATUSES = frozenset({400, 403, 405, 406, 413, 415, 422})
TRANSIENT_STATUSES = frozenset({401, 408, 409, 429})

ALREADY_EXISTS = "AlreadyExists"

_TRANSIENT_REFUSAL = re.compile(
    r"being terminated|serviceaccount \S+ not found|status unknown for quota", re.IGNORECASE
)
_EXCEEDED = re.compile(
    r"exceeded quota: (?P<quota>[^,]+), requested: (?P<requested>\S+), "
    r"used: (?P<used>\S+), limited: (?P<limited>\S+)"
)

Judgement = Retryable | Permanent | QuotaWait | Transient | Adopt


def judge(error: KubernetesError, *, own_name: bool = False) -> Judgement:
    """Decide what a refused or failed creation means.

    ``own_name`` says that nobody but us creates objects of that name, so that a 409
    may be our own earlier try whose answer was lost.
    """
    reason = describe(error)
    if isinstance(error, SourceUnusable):
        return Permanent(reason)
    if not isinstance(error, ApiError):
        return Transient(reason)
    if error.status == 409 and error.reason == ALREADY_EXISTS and own_name:
        return Adopt(reason)
    if error.status == 403:
        return _judge_refusal(error, reason)
    if error.status in PERMANENT_STATUSES:
        return Permanent(reason)
    if error.status in TRANSIENT_STATUSES or error.status >= 500:
        return Transient(reason, error.retry_after)
    return Retryable(reason)


def _judge_refusal(error: ApiError, reason: str) -> Judgement:
    if _TRANSIENT_REFUSAL.search(error.message):
        return Transient(reason, error.retry_after)
    exceeded = _EXCEEDED.search(error.message)
    if exceeded is None:
        # "exceeded quota" in a form that says no amounts: cannot tell, so it costs an attempt.
        return Retryable(reason) if "exceeded quota" in error.message else Permanent(reason)
    try:
        fits = _fits(_amounts(exceeded["requested"]), _amounts(exceeded["limited"]))
    except ValueError:
        return Retryable(reason)
    return QuotaWait(reason) if fits else Permanent(reason)


def _amounts(text: str) -> dict[str, str]:
    return dict(_pair(part) for part in text.rstrip(",").split(","))


def _pair(part: str) -> tuple[str, str]:
    name, equals, amount = part.partition("=")
    if not equals:
        raise ValueError(f"{part!r} is not name=amount")
    return name, amount


def _fits(requested: Mapping[str, str], limited: Mapping[str, str]) -> bool:
    return all(
        parse_quantity(amount) <= parse_quantity(limited[name])
        for name, amount in requested.items()
        if name in limited
    )
