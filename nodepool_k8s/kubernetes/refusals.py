"""What a refusal of the API server means: for the call, for the launch, and for the metrics. Pure.

One table for all three, so that they cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from nodepool_k8s.drivers.outcomes import Failure
from nodepool_k8s.errors import (
    ApiError,
    ClusterUnreachable,
    KubernetesError,
    SourceUnusable,
    describe,
)
from nodepool_k8s.quantities import parse_quantity

ALREADY_EXISTS = "AlreadyExists"


class Meaning(Enum):
    """What to do after a refusal."""

    TRANSIENT = auto()
    """Try the same call again."""
    CAPACITY = auto()
    """A ResourceQuota is used up, and the node would fit into it: wait for room."""
    RETRYABLE = auto()
    """This attempt failed; another may succeed."""
    PERMANENT = auto()
    """No attempt can succeed."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused or failed call. ``retry_after`` is in seconds, None where none was named."""

    meaning: Meaning
    failure: Failure
    reason: str
    retry_after: float | None = None


_STATUSES: Mapping[int, tuple[Meaning, Failure]] = {
    400: (Meaning.PERMANENT, Failure.REFUSED),
    401: (Meaning.TRANSIENT, Failure.API),
    403: (Meaning.PERMANENT, Failure.REFUSED),
    405: (Meaning.PERMANENT, Failure.REFUSED),
    406: (Meaning.PERMANENT, Failure.REFUSED),
    408: (Meaning.TRANSIENT, Failure.API),
    409: (Meaning.TRANSIENT, Failure.API),
    413: (Meaning.PERMANENT, Failure.REFUSED),
    415: (Meaning.PERMANENT, Failure.REFUSED),
    422: (Meaning.PERMANENT, Failure.REFUSED),
    429: (Meaning.TRANSIENT, Failure.API),
}
"""By HTTP status. From 500 on everything is transient; the rest costs an attempt."""

_FORBIDDEN: tuple[tuple[re.Pattern[str], Meaning, Failure], ...] = (
    (
        # The namespace of an earlier attempt, or a slow controller.
        re.compile(
            r"being terminated|serviceaccount \S+ not found|status unknown for quota",
            re.IGNORECASE,
        ),
        Meaning.TRANSIENT,
        Failure.API,
    ),
    # Without amounts: whether the node would ever fit is unknown.
    (re.compile(r"exceeded quota", re.IGNORECASE), Meaning.RETRYABLE, Failure.QUOTA),
    (re.compile(r"(failed|insufficient) quota", re.IGNORECASE), Meaning.PERMANENT, Failure.QUOTA),
)
"""Of a 403, by its message: the first that matches."""

_EXCEEDED = re.compile(
    r"exceeded quota: (?P<quota>[^,]+), requested: (?P<requested>\S+), "
    r"used: (?P<used>\S+), limited: (?P<limited>\S+)",
    re.IGNORECASE,
)


def judge(error: KubernetesError) -> Refusal:
    """Judge a refused or failed call."""
    reason = describe(error)
    if isinstance(error, SourceUnusable):
        return Refusal(Meaning.PERMANENT, Failure.SOURCE, reason)
    if not isinstance(error, ApiError):
        return Refusal(Meaning.TRANSIENT, Failure.API, reason)
    meaning, failure = _meaning(error)
    return Refusal(meaning, failure, reason, error.retry_after)


def is_unanswered(error: KubernetesError) -> bool:
    """Whether the cluster gave no answer, so that the call can be repeated."""
    return isinstance(error, ClusterUnreachable)


def _meaning(error: ApiError) -> tuple[Meaning, Failure]:
    if error.status == 403:
        return _of_forbidden(error.message)
    if error.status >= 500:
        return Meaning.TRANSIENT, Failure.API
    return _STATUSES.get(error.status, (Meaning.RETRYABLE, Failure.REFUSED))


def _of_forbidden(message: str) -> tuple[Meaning, Failure]:
    exceeded = _EXCEEDED.search(message)
    if exceeded is not None:
        return _of_exceeded(exceeded["requested"], exceeded["limited"]), Failure.QUOTA
    for pattern, meaning, failure in _FORBIDDEN:
        if pattern.search(message):
            return meaning, failure
    return _STATUSES[403]


def _of_exceeded(requested: str, limited: str) -> Meaning:
    try:
        fits = _fits(_amounts(requested), _amounts(limited))
    except ValueError:
        return Meaning.RETRYABLE
    return Meaning.CAPACITY if fits else Meaning.PERMANENT


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
