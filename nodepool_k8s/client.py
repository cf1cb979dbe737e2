"""Ask for nodes as Zuul does: request, wait, accept, use, return. For programs and people.

::

    async with Requestor.connected(settings.zookeeper, "me") as requestor:
        request = await requestor.wait(await requestor.submit(["pod-fedora"]))
        async with requestor.using(request) as nodes:
            ...

Whatever happens, ``using`` returns the nodes, and a program that dies lets its locks go,
after which the launcher removes them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from nodepool_k8s import wire
from nodepool_k8s.config.settings import ZooKeeperSettings
from nodepool_k8s.errors import (
    Conflict,
    Held,
    MalformedRecord,
    NodepoolK8sError,
    Outdated,
    Vanished,
)
from nodepool_k8s.model import Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.zookeeper import locks
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.operations import Check, Delete, SetData

log = logging.getLogger(__name__)

PRIORITY = "200"
"""Zuul's normal priority; a lower number goes first."""


class RequestFailed(NodepoolK8sError):
    """No launcher can serve the request; the text says why, where one said so."""


@dataclass(frozen=True, slots=True)
class AcceptedNode:
    """A node that we hold locked."""

    node: Node
    lock: str


T = TypeVar("T")

Progress = Callable[[NodeRequest], None]


class Requestor:
    """Someone who asks for nodes, with one connection to ZooKeeper."""

    def __init__(self, client: ZooKeeperClient, name: str) -> None:
        self.client = client
        self._name = name
        self._changed: dict[str, asyncio.Event] = {}
        client.on_event(self._on_event)

    @classmethod
    @asynccontextmanager
    async def connected(cls, settings: ZooKeeperSettings, name: str) -> AsyncIterator[Requestor]:
        """Connect to ZooKeeper for the length of the block. Raises ConnectionLost."""
        client = ZooKeeperClient(settings)
        await client.start()
        try:
            yield cls(client, name)
        finally:
            await client.close()

    def _on_event(self, _kind: str, path: str) -> None:
        changed = self._changed.get(path)
        if changed is not None:
            changed.set()

    # --- asking ---------------------------------------------------------------------------

    async def submit(
        self,
        labels: Sequence[str],
        *,
        priority: str = PRIORITY,
        provider: str | None = None,
        tenant: str | None = None,
        event_id: str | None = None,
        relative_priority: int = 0,
    ) -> str:
        """Write a request for one node of each label; its id."""
        now = time.time()
        request = NodeRequest(
            id="",
            state=RequestState.REQUESTED,
            state_time=now,
            created_time=now,
            node_types=tuple(labels),
            requestor=self._name,
            provider=provider,
            tenant_name=tenant,
            event_id=event_id,
            relative_priority=relative_priority,
        )
        await self.client.ensure_path(wire.REQUESTS)
        path = await self.client.create_sequence(
            f"{wire.REQUESTS}/{priority}-", wire.encode_request(request)
        )
        return path.rpartition("/")[2]

    async def read(self, request_id: str) -> NodeRequest:
        """The request as it stands. Raises Vanished, MalformedRecord."""
        data, stat = await self.client.get(wire.request_path(request_id))
        return wire.parse_request(request_id, data, stat.version)

    async def wait(self, request_id: str, progress: Progress | None = None) -> NodeRequest:
        """Wait until the request is fulfilled; ``progress`` sees it each time it changes.

        Raises RequestFailed, Vanished.
        """
        path = wire.request_path(request_id)
        changed = self._changed[path] = asyncio.Event()
        connections = -1
        try:
            while True:
                if connections != self.client.connections:
                    connections = self.client.connections
                    await self.client.watch_tree(path)
                changed.clear()
                request = await self.read(request_id)
                if progress is not None:
                    progress(request)
                if request.state is RequestState.FULFILLED:
                    return request
                if request.state is RequestState.FAILED:
                    raise RequestFailed(_why_failed(request))
                await self._news(changed, connections)
        finally:
            del self._changed[path]

    async def _news(self, changed: asyncio.Event, connections: int) -> None:
        """Wait for an event, or for a new connection, which knows nothing of our watch."""
        waits = {
            asyncio.ensure_future(changed.wait()),
            asyncio.ensure_future(self.client.wait_connection_after(connections)),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def cancel(self, request_id: str) -> None:
        """Withdraw a request; nodes that were made for it are the launcher's to remove."""
        with suppress(Conflict):
            await self.client.transaction([Delete(wire.request_path(request_id))])

    # --- using -----------------------------------------------------------------------------

    @asynccontextmanager
    async def using(self, request: NodeRequest) -> AsyncIterator[list[AcceptedNode]]:
        """Accept the nodes of a fulfilled request, and return them at the end."""
        nodes = await self.accept(request)
        try:
            yield nodes
        finally:
            await asyncio.shield(self.give_back(nodes))

    async def accept(self, request: NodeRequest) -> list[AcceptedNode]:
        """Lock the nodes, drop the request, and set them in use.

        Raises Held or Vanished where a node is not ours to have.
        """
        accepted: list[AcceptedNode] = []
        try:
            for node_id in request.nodes:
                accepted.append(await self._lock(node_id, request.id))
        except BaseException:
            for entry in accepted:
                await locks.release(self.client, entry.lock)
            raise
        await self.cancel(request.id)
        return [await self._set_state(entry, NodeState.IN_USE) for entry in accepted]

    async def _lock(self, node_id: str, request_id: str) -> AcceptedNode:
        if await self.client.exists(wire.node_path(node_id)) is None:
            raise Vanished(f"node {node_id} is gone")
        lock = await locks.acquire(self.client, wire.node_lock_path(node_id))
        node = await self.read_node(node_id)
        if node.allocated_to != request_id:
            await locks.release(self.client, lock)
            raise Held(f"node {node_id} is allocated to {node.allocated_to}")
        return AcceptedNode(node, lock)

    async def read_node(self, node_id: str) -> Node:
        """A node as it stands. Raises Vanished, MalformedRecord."""
        data, stat = await self.client.get(wire.node_path(node_id))
        return wire.parse_node(node_id, data, stat.version)

    async def _set_state(self, entry: AcceptedNode, state: NodeState) -> AcceptedNode:
        node = dataclasses.replace(entry.node, state=state, state_time=time.time())
        await self.client.transaction(
            [
                Check(entry.lock),
                SetData(wire.node_path(node.id), wire.encode_node(node), node.version),
            ]
        )
        return AcceptedNode(dataclasses.replace(node, version=node.version + 1), entry.lock)

    async def give_back(self, nodes: Sequence[AcceptedNode]) -> None:
        """Mark the nodes used and let them go; the launcher removes them."""
        for entry in nodes:
            with suppress(Conflict):
                await self._set_state(entry, NodeState.USED)
            await locks.release(self.client, entry.lock)

    # --- looking -------------------------------------------------------------------------------

    async def requests(self) -> list[NodeRequest]:
        """Every request that can be read, in the order in which they are served."""
        found = await self._read_all(wire.REQUESTS, self.read)
        return sorted(found, key=lambda entry: (entry.priority, entry.relative_priority, entry.id))

    async def nodes(self) -> list[tuple[Node, bool]]:
        """Every node that can be read, by id, and whether it is locked."""

        async def read(node_id: str) -> tuple[Node, bool]:
            node = await self.read_node(node_id)
            try:
                contenders = await self.client.children(wire.node_lock_path(node_id))
            except Vanished:
                contenders = []
            return node, bool(contenders)

        return sorted(await self._read_all(wire.NODES, read), key=lambda entry: entry[0].id)

    async def _read_all(self, root: str, read: Callable[[str], Awaitable[T]]) -> list[T]:
        """Read every child at once; what went meanwhile, or cannot be read, is left out."""
        try:
            names = await self.client.children(root)
        except Vanished:
            return []
        results = await asyncio.gather(*(read(name) for name in names), return_exceptions=True)
        found: list[T] = []
        for name, result in zip(names, results, strict=True):
            if isinstance(result, MalformedRecord):
                log.warning("Passed over %s/%s: %s", root, name, result)
            elif isinstance(result, Vanished):
                continue
            elif isinstance(result, BaseException):
                raise result
            else:
                found.append(result)
        return found

    async def mark_for_deletion(self, node_id: str) -> None:
        """Have the launcher delete a node that nobody uses.

        Raises Vanished, Held.
        """
        node = await self.read_node(node_id)
        lock = await locks.acquire(self.client, wire.node_lock_path(node_id))
        try:
            await self._set_state(AcceptedNode(node, lock), NodeState.DELETING)
        except Outdated as error:
            raise Held(f"node {node_id} is being changed by somebody else") from error
        finally:
            await locks.release(self.client, lock)


def _why_failed(request: NodeRequest) -> str:
    reasons = wire.refusal_reasons(request)
    why = "; ".join(reasons) or "no launcher can serve it, and none said why"
    return f"request {request.id} for {', '.join(request.node_types)} failed: {why}"
