"""Which requests a pool takes, yields to other pools, or declines, and in which order. Pure.

These are the rules that Nodepool's launcher applies to each pool; for their sources see
``docs/architecture.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from nodepool_k8s.config.settings import Pool
from nodepool_k8s.model import Component, NodeRequest, RequestState, Resources
from nodepool_k8s.policy import quota
from nodepool_k8s.policy.lifecycle import move_request
from nodepool_k8s.znodes.requests import with_reasons

Order: TypeAlias = tuple[str, int, str]

NODEPOOLS_MARK = "-PoolWorker."
"""Part of the id of each pool that a Nodepool launcher has registered."""


@dataclass(frozen=True, slots=True)
class Take:
    """The pool may claim the request, as soon as it fits; ``wanted`` is what it needs."""

    wanted: Resources


@dataclass(frozen=True, slots=True)
class Yield:
    """Another pool should serve it; ask again when pools come, go or pause."""

    reason: str


@dataclass(frozen=True, slots=True)
class Decline:
    """The pool can never serve the request."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ignore:
    """The request does not wait for this pool."""


Answer: TypeAlias = Take | Yield | Decline | Ignore


def order(request: NodeRequest) -> Order:
    """The place of a request in a pool's queue: the lowest goes first."""
    return request.priority, request.relative_priority, request.sequence


def answer(
    request: NodeRequest,
    pool: Pool,
    me: str,
    components: Iterable[Component],
    usage: Mapping[str, Resources],
) -> Answer:
    """What ``pool``, registered as ``me``, does with a request.

    ``components`` are all registered pools; ``usage`` says what one node of each of
    the pool's labels counts.
    """
    if request.state is not RequestState.REQUESTED:
        return Ignore()
    components = list(components)
    if me in request.declined_by:
        return _once_declined(request, me, components)
    wanted_labels = set(request.node_types)
    candidates = [
        component
        for component in components
        if component.supported_labels >= wanted_labels and component.id not in request.declined_by
    ]
    others = [component for component in candidates if component.id != me]
    missing = sorted(wanted_labels - pool.labels.keys())
    return (
        _yield_to_provider(request, pool, others)
        or _yield_to_priority(request, pool, others)
        or (Yield("it lacks labels that another pool has") if missing and others else None)
        or _judge(request, pool, missing, usage)
    )


def _once_declined(request: NodeRequest, me: str, components: Iterable[Component]) -> Answer:
    """The answer to a request that ``me`` has declined and others may not have.

    If the others end without an answer, no pool but ``me`` can write that the request failed.
    """
    if {component.id for component in components} <= {me, *request.declined_by}:
        return Decline("all remaining pools have declined it")
    return Yield("this pool has declined it, others have not")


def _yield_to_provider(request: NodeRequest, pool: Pool, others: list[Component]) -> Answer | None:
    if request.provider in (None, pool.provider):
        return None
    named = [component for component in others if component.provider_name == request.provider]
    if any(not _is_left_to(pool, component) for component in named):
        return Yield(f"the request asks for provider {request.provider}")
    return None


def _is_left_to(pool: Pool, named: Component) -> bool:
    """Whether a pool of the provider that the request names leaves the request to ``pool``.

    Nodepool's launcher compares priorities even then; if ``pool`` yielded too, no pool would
    ever take the request.
    """
    return NODEPOOLS_MARK in named.id and pool.priority < named.priority


def _yield_to_priority(request: NodeRequest, pool: Pool, others: list[Component]) -> Answer | None:
    for component in others:
        if request.provider == pool.provider and _leaves_to_named(component, pool, others):
            continue
        if component.priority < pool.priority and not component.paused:
            return Yield(f"pool {component.id} has a higher priority")
    return None


def _leaves_to_named(component: Component, pool: Pool, others: list[Component]) -> bool:
    """Whether another pool leaves requests that name the provider of ``pool`` to ``pool``.

    Pools of other providers do, whatever the priorities. A Nodepool launcher's pool of the
    same provider yields to such a pool if that has a higher priority: no pool would take
    the request.
    """
    if component.provider_name != pool.provider:
        return True
    return NODEPOOLS_MARK in component.id and any(
        other.provider_name != pool.provider
        and other.priority < component.priority
        and not other.paused
        for other in others
    )


def _judge(
    request: NodeRequest, pool: Pool, missing: list[str], usage: Mapping[str, Resources]
) -> Answer:
    if missing:
        return Decline(f"no pool has label {', '.join(missing)}")
    if pool.disabled:
        return Decline("max-servers of the pool is 0")
    wanted = sum((usage[label] for label in request.node_types), Resources())
    too_large = quota.never_fits(pool.limits, wanted)
    return Decline(too_large) if too_large else Take(wanted)


def after_decline(
    request: NodeRequest, me: str, components: Iterable[Component]
) -> tuple[RequestState, tuple[str, ...]]:
    """State and ``declined_by`` of a request that ``me`` declines.

    FAILED once every registered pool has declined, which is Nodepool's rule; else
    requested, for the others.
    """
    declined_by = tuple(dict.fromkeys((*request.declined_by, me)))
    waiting = {component.id for component in components} - set(declined_by)
    return (RequestState.REQUESTED if waiting else RequestState.FAILED), declined_by


def declined(
    request: NodeRequest,
    me: str,
    pool: str,
    reason: str,
    components: Iterable[Component],
    now: float,
) -> NodeRequest:
    """The request as the pool ``pool``, registered as ``me``, leaves it when it declines it."""
    state, declined_by = after_decline(request, me, components)
    return move_request(
        request,
        state,
        now,
        declined_by=declined_by,
        extra=with_reasons(request, (f"{pool}: {reason}",)),
    )
