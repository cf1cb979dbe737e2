"""What a pod's status, or a refusal of the API server, means for the launch of a node.

Decides only: ready, wait (until when, for what), this attempt failed, or no attempt can
succeed. The table is in the architecture page. Clocks and records come as arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from nodepool_k8s.errors import ApiError, KubernetesError, describe
from nodepool_k8s.policy.quantities import parse_quantity

# --- verdicts ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failed:
    """This attempt failed; another may succeed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hopeless:
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

Judgement = Failed | Hopeless | QuotaWait | Transient | Adopt


def judge(error: KubernetesError, *, own_name: bool = False) -> Judgement:
    """Decide what a refused or failed creation means.

    ``own_name`` says that nobody but us creates objects of that name, so that a 409
    may be our own earlier try whose answer was lost.
    """
    reason = describe(error)
    if not isinstance(error, ApiError):
        return Transient(reason)
    if error.status == 409 and error.reason == ALREADY_EXISTS and own_name:
        return Adopt(reason)
    if error.status == 403:
        return _judge_refusal(error, reason)
    if error.status in PERMANENT_STATUSES:
        return Hopeless(reason)
    if error.status in TRANSIENT_STATUSES or error.status >= 500:
        return Transient(reason, error.retry_after)
    return Failed(reason)


def _judge_refusal(error: ApiError, reason: str) -> Judgement:
    if _TRANSIENT_REFUSAL.search(error.message):
        return Transient(reason, error.retry_after)
    exceeded = _EXCEEDED.search(error.message)
    if exceeded is None:
        # "exceeded quota" in a form that says no amounts: cannot tell, so it costs an attempt.
        return Failed(reason) if "exceeded quota" in error.message else Hopeless(reason)
    try:
        fits = _fits(_amounts(exceeded["requested"]), _amounts(exceeded["limited"]))
    except ValueError:
        return Failed(reason)
    return QuotaWait(reason) if fits else Hopeless(reason)


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
