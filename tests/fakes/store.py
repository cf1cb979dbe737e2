"""A store whose records are in memory: what one launcher writes is there at once.

It checks what the real one checks: that a record has not changed since it was read, that the
lock is held by the writer, and that no other client contends for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from nodepool_k8s.errors import Held, NotHeld, Outdated, Vanished
from nodepool_k8s.model import Node, NodeRequest, NodeState
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Claim
from tests.support.mirrors import still_mirror

LOCK = "ours"


class FakeStore:
    """The records of nodes and requests; the mirror shows them without delay."""

    session_over = False

    def __init__(self) -> None:
        self.mirror: Mirror = still_mirror()
        self.nodes: dict[str, Node] = {}
        self.requests: dict[str, NodeRequest] = {}
        self.held: set[str] = set()
        """Ids of the nodes that this launcher holds."""
        self.contended: set[str] = set()
        """Ids of the nodes whose lock another client waits for."""

    # --- what a test does to it ---------------------------------------------------------------

    def put_node(self, node: Node, *, locked: bool = False) -> HeldNode:
        """Write a node, whatever was there."""
        self.nodes[node.id] = node
        self.mirror.put_node(node)
        if locked:
            self.held.add(node.id)
            self.mirror.node_locks[node.id] = {LOCK}
        return HeldNode(node, LOCK)

    def put_request(self, request: NodeRequest, *, locked: bool = False) -> NodeRequest:
        """Write a request, whatever was there."""
        self.requests[request.id] = self.mirror.requests[request.id] = request
        self.mirror.request_locks[request.id] = {LOCK} if locked else set()
        return request

    def delete_request(self, request_id: str) -> None:
        """The requestor withdraws its request."""
        del self.requests[request_id], self.mirror.requests[request_id]

    def unlock(self, node_id: str) -> None:
        """Release a node's lock."""
        self.held.discard(node_id)
        self.mirror.node_locks.pop(node_id, None)

    # --- reading ------------------------------------------------------------------------------

    async def read_node(self, node_id: str) -> Node | None:
        return self.nodes.get(node_id)

    async def read_request(self, request_id: str) -> NodeRequest | None:
        return self.requests.get(request_id)

    async def refresh_node(self, node_id: str) -> bool:
        return node_id in self.nodes

    async def read_held(self, held: HeldNode) -> HeldNode:
        return replace(held, node=self._held_node(held))

    # --- nodes --------------------------------------------------------------------------------

    async def write_node(self, held: HeldNode) -> HeldNode:
        if self._held_node(held).version != held.node.version:
            raise Outdated(held.node.id)
        written = held.evolve(version=held.node.version + 1)
        self.put_node(written.node)
        return written

    async def take_node(
        self, node_id: str, change: Callable[[Node], Node | None]
    ) -> HeldNode | None:
        node = change(self._node(node_id))
        if node is None:
            return None
        if self.mirror.node_locked(node_id):
            raise Held(node_id)
        held = self.put_node(self.nodes[node_id], locked=True)
        return await self.write_node(replace(held, node=node))

    async def remove_node(self, held: HeldNode) -> None:
        self._held_node(held)
        self.unlock(held.node.id)
        if held.node.id in self.contended:
            self.put_node(replace(held.node, state=NodeState.DELETED))
            self.mirror.node_locks[held.node.id] = {"another client's"}
            raise Held(held.node.id)
        del self.nodes[held.node.id], self.mirror.nodes[held.node.id]

    async def free_node(
        self, node_id: str, request: NodeRequest | None, is_due: Callable[[Node], bool]
    ) -> bool:
        node = self._node(node_id)
        if not is_due(node):
            return False
        self.put_node(replace(node, allocated_to=None, version=node.version + 1))
        return True

    async def free_held(self, held: HeldNode) -> None:
        await self.write_node(held.evolve(allocated_to=None))
        self.unlock(held.node.id)

    def _node(self, node_id: str) -> Node:
        if node_id not in self.nodes:
            raise Vanished(node_id)
        return self.nodes[node_id]

    def _held_node(self, held: HeldNode) -> Node:
        if held.node.id not in self.held or held.node.id not in self.nodes:
            raise NotHeld(held.node.id)
        return self.nodes[held.node.id]

    # --- requests -----------------------------------------------------------------------------

    async def hand_over(
        self, claim: Claim, request: NodeRequest, nodes: Sequence[HeldNode], unwritten: int
    ) -> None:
        if any(self._held_node(held).version != held.node.version for held in nodes):
            raise Outdated(request.id)
        await self.give_back(claim, request)
        for position, held in enumerate(nodes):
            if position >= len(nodes) - unwritten:
                await self.write_node(held)
            self.unlock(held.node.id)

    async def give_back(self, claim: Claim, request: NodeRequest) -> None:
        if request.id not in self.requests:
            raise Vanished(request.id)
        self.put_request(replace(request, version=claim.request.version + 1))

    async def abandon_request(self, claim: Claim) -> None:
        self.mirror.request_locks.pop(claim.request.id, None)

    async def rewrite_request(self, request: NodeRequest) -> NodeRequest:
        if self.requests[request.id].version != request.version:
            raise Outdated(request.id)
        return self.put_request(replace(request, version=request.version + 1))
