"""Which nodes are due for deletion, which requests were abandoned, what has leaked. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nodepool_k8s.config.settings import Provider
from nodepool_k8s.drivers.outcomes import Owned
from nodepool_k8s.model import (
    Component,
    Node,
    NodeRequest,
    NodeState,
    RequestState,
)
from nodepool_k8s.znodes.nodes import has_driver_data, hold_expiration

_REMOVABLE = {
    NodeState.USED: "it was used",
    NodeState.IN_USE: "its requestor is gone",
    NodeState.BUILDING: "its launcher is gone",
    NodeState.TESTING: "its launcher is gone",
    NodeState.FAILED: "its launch failed",
    NodeState.DELETING: "its deletion was begun",
    NodeState.DELETED: "its deletion was begun",
    NodeState.ABORTED: "its launch was aborted",
}

DRAFT_SECONDS = 60.0
"""A drafted node that is not claimed within this time belongs to a launcher that crashed."""


@dataclass(frozen=True, slots=True)
class Ages:
    """How old a node may get, in seconds; None: no limit."""

    ready: float | None = None
    """``max-ready-age`` of its label."""
    hold: float | None = None
    """``max-hold-age``."""


def why_delete(
    node: Node, *, locked: bool, now: float, ages: Ages, unusable: str | None
) -> str | None:
    """Why a node that one of our launchers claimed is to be deleted; None: it is not.

    ``unusable`` says why a ready node cannot be handed over any more; None: it can.
    """
    if locked or node.claimed is None:
        return None
    due = due_at(node, ages)
    if due is not None and due <= now:
        age = "max-ready-age" if node.state is NodeState.READY else "hold"
        return f"its {age} of {due - node.state_time:g} s is over"
    if node.unused and unusable is not None:
        return unusable
    return _REMOVABLE.get(node.state)


def due_at(node: Node, ages: Ages) -> float | None:
    """When a node has reached its age limit, in seconds since the epoch; None: never.

    A hold ends after the time that its holder asked for or ``max-hold-age``, the shorter one.
    """
    limits: tuple[float | None, ...] = ()
    if node.unused:
        limits = (ages.ready,)
    elif node.state is NodeState.HOLD:
        limits = (ages.hold, hold_expiration(node))
    return min((node.state_time + limit for limit in limits if limit), default=None)


def is_freed(node: Node, *, locked: bool, request: NodeRequest | None) -> bool:
    """Whether a ready node is allocated to a request that does not have it.

    Then any request may have it. ``request`` is the one that it is allocated to, None if
    that was deleted. A request that a crashed launcher had claimed is requested again, and
    the nodes that were ready for it would only take up the room that it needs.
    """
    if locked or node.claimed is None or node.state is not NodeState.READY:
        return False
    return node.allocated_to is not None and (request is None or has_no_nodes(request))


def has_no_nodes(request: NodeRequest) -> bool:
    """Whether no launcher has claimed a request, or it failed."""
    return request.state in (RequestState.REQUESTED, RequestState.FAILED)


def is_lost_draft(node: Node, now: float) -> bool:
    """Whether a node is a draft of ours that no launcher will claim any more."""
    return (
        node.state is NodeState.INIT
        and node.claimed is None
        and has_driver_data(node)
        and now - node.state_time > DRAFT_SECONDS
    )


def is_left_behind(request: NodeRequest, *, locked: bool) -> bool:
    """Whether the launcher that claimed a request has ended."""
    return request.state is RequestState.PENDING and not locked


def is_served_elsewhere(
    provider: str | None, ours: Iterable[Provider], components: Iterable[Component]
) -> bool:
    """Whether only other launchers serve a provider, by the pools registered now."""
    if any(entry.name == provider for entry in ours):
        return False
    return any(component.provider_name == provider for component in components)


def is_unoffered(node: Node, components: Iterable[Component], *, moved: bool) -> bool:
    """Whether no registered pool can use an unused ready node of ours.

    ``moved``: its provider has another cluster now.
    """
    if not node.unused or node.claimed is None:
        return False
    return moved or not any(
        component.provider_name == node.provider
        # Launchers of old versions do not name their pool.
        and component.pool in ("", node.pool)
        and component.supported_labels >= set(node.type)
        for component in components
    )


def stuck_for(owned: Owned, now: float) -> float | None:
    """Seconds since its deletion was accepted; None if it is not being deleted."""
    return None if owned.deleted_at is None else max(0.0, now - owned.deleted_at)


def next_report(age: float, first: float) -> float:
    """The age at which to report again what was reported at ``age``: at twice the age."""
    return max(first, 2 * age)


def is_suspect(owned: Owned, node: Node | None) -> bool:
    """Whether something of our deployment seems to belong to no node.

    The mirrors may be behind: the caller asks ZooKeeper before it acts on this.
    """
    if owned.deleting:
        return False
    return node is None or node.external_id != owned.external_id
