"""The ready nodes of one pool: which are handed out to a request, which may be removed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.model import Node, NodeRequest
from nodepool_k8s.znodes.requests import wants_reuse
from nodepool_k8s.zookeeper.mirror import Mirror


class SpareDeleter(Protocol):
    """Knows which ready nodes will be deleted, and deletes those that are in the way."""

    def is_usable(self, context: LaunchContext, node: Node) -> bool:
        """Whether a ready node may be handed out."""

    async def remove_spare(self, node: Node, reason: str) -> bool:
        """Delete an unused ready node, for that reason; False if another launcher has it."""


class ReadyNodes:
    """The pool's ready nodes, under one configuration of it."""

    def __init__(self, context: LaunchContext, mirror: Mirror, deleter: SpareDeleter) -> None:
        self._context = context
        self._mirror = mirror
        self._deleter = deleter
        self._taken: set[str] = set()
        """Nodes that other launchers had taken when we asked, in this step of the queue."""

    def for_request(self, request: NodeRequest) -> Sequence[Node | None]:
        """For each label of the request a ready node, or None: one has to be launched."""
        if not wants_reuse(request):
            return [None] * len(request.node_types)
        chosen: list[Node | None] = []
        for label in request.node_types:
            ids = {node.id for node in chosen if node is not None}
            nodes = (node for node in self._unused(label) if node.id not in ids)
            usable = (node for node in nodes if self._deleter.is_usable(self._context, node))
            chosen.append(next(usable, None))
        return chosen

    def unused(self, but: Collection[str]) -> list[Node]:
        """All ready nodes that no request has, without those ids; the oldest first."""
        labels = self._context.pool.labels
        nodes = (node for label in labels for node in self._unused(label))
        return sorted(
            (node for node in nodes if node.id not in but),
            key=lambda node: (node.state_time, node.id),
        )

    def contended(self) -> list[str]:
        """Ids of unused ready nodes that a launcher has locked: it takes or deletes them."""
        return [
            node.id
            for label in self._context.pool.labels
            for node in self._mirror.unused(label)
            if self._is_ours(node) and self._mirror.node_locked(node.id)
        ]

    def exclude(self, node_id: str) -> None:
        """Another launcher took that one: leave it out until ``begin_step``."""
        self._taken.add(node_id)

    def begin_step(self) -> None:
        """Consider all nodes again."""
        self._taken.clear()

    def _unused(self, label: str) -> Iterable[Node]:
        """The label's nodes that no request has and no launcher has locked, oldest first."""
        for node in self._mirror.unused(label):
            free = node.id not in self._taken and not self._mirror.node_locked(node.id)
            if self._is_ours(node) and free and node.claimed is not None:
                yield node

    def _is_ours(self, node: Node) -> bool:
        pool = self._context.pool
        return (node.provider, node.pool) == (pool.provider, pool.name)


def ids(nodes: Iterable[Node | None]) -> list[str | None]:
    """The nodes' ids, None for None."""
    return [node.id if node is not None else None for node in nodes]
