"""Look at nodes and requests, and ask for nodes as Zuul does: request, wait, accept, use, return.

For programs and people.

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
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from nodepool_k8s import status, wire
from nodepool_k8s.config.settings import TopLabel, ZooKeeperSettings
from nodepool_k8s.errors import (
    Conflict,
    Held,
    MalformedRecord,
    NodepoolK8sError,
    Vanished,
)
from nodepool_k8s.model import (
    EMPTY,
    Component,
    Node,
    NodeRequest,
    NodeState,
    RequestState,
    Resources,
)
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


@asynccontextmanager
async def connection(settings: ZooKeeperSettings) -> AsyncIterator[ZooKeeperClient]:
    """A connection to ZooKeeper for the length of the block. Raises ConnectionLost."""
    client = ZooKeeperClient(settings)
    try:
        await client.start()
        yield client
    finally:
        await client.close()


T = TypeVar("T")

Progress = Callable[[NodeRequest], None]


class Viewer:
    """Someone who looks at what is in ZooKeeper, straight from the server."""

    def __init__(self, client: ZooKeeperClient) -> None:
        self.client = client

    async def read(self, request_id: str) -> NodeRequest:
        """The request as it stands. Raises Vanished, MalformedRecord."""
        data, stat = await self.client.get(wire.request_path(request_id))
        return wire.parse_request(request_id, data, stat.version)

    async def read_node(self, node_id: str) -> Node:
        """A node as it stands. Raises Vanished, MalformedRecord."""
        data, stat = await self.client.get(wire.node_path(node_id))
        return wire.parse_node(node_id, data, stat.version)

    async def requests(self) -> list[NodeRequest]:
        """Every request that can be read, in the order in which they are served."""
        found = await self._read_all(wire.REQUESTS, self.read)
        return sorted(found, key=lambda entry: (entry.priority, entry.relative_priority, entry.id))

    async def nodes(self, provider: str | None = None) -> list[tuple[Node, bool]]:
        """Every node (of the provider) that can be read, by id, and whether it is locked."""

        async def read(node_id: str) -> tuple[Node, bool]:
            return await self.read_node(node_id), bool(await self.contenders(node_id))

        found = await self._read_all(wire.NODES, read)
        wanted = [entry for entry in found if provider is None or entry[0].provider == provider]
        return sorted(wanted, key=lambda entry: entry[0].id)

    async def contenders(self, node_id: str) -> list[str]:
        """The names of the children of a node's lock; none where nobody wants it."""
        try:
            return await self.client.children(wire.node_lock_path(node_id))
        except Vanished:
            return []

    async def components(
        self, provider: str | None = None
    ) -> list[tuple[Component, Mapping[str, Any]]]:
        """The registered pools (of the provider), by id, each with its whole record."""

        async def read(name: str) -> tuple[Component, Mapping[str, Any]]:
            data, _ = await self.client.get(f"{wire.POOL_COMPONENTS}/{name}")
            return wire.parse_component(name, data), json.loads(data)

        found = await self._read_all(wire.POOL_COMPONENTS, read)
        wanted = [
            entry for entry in found if provider is None or entry[0].provider_name == provider
        ]
        return sorted(wanted, key=lambda entry: entry[0].id)

    async def labels(self, configured: Mapping[str, TopLabel] = EMPTY) -> list[status.Row]:
        """The labels that registered pools serve, as ``status.label_rows`` shows them."""
        components = [component for component, _ in await self.components()]
        nodes = await self._read_all(wire.NODES, self.read_node)
        return status.label_rows(components, nodes, configured)

    async def ledgers(self, provider: str) -> dict[str, Resources]:
        """What the nodes of each of the provider's pools count, by the pool's name."""
        root = wire.ledger_path(provider, "").rstrip("/")

        async def read(name: str) -> tuple[str, Resources]:
            path = f"{root}/{name}"
            data, _ = await self.client.get(path)
            found = wire.pool_of_ledger(path)
            return found[1] if found else name, wire.parse_ledger(data)

        return dict(sorted(await self._read_all(root, read)))

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


class Requestor(Viewer):
    """Someone who asks for nodes, with one connection to ZooKeeper."""

    def __init__(self, client: ZooKeeperClient, name: str) -> None:
        super().__init__(client)
        self._name = name
        self._changed: dict[str, asyncio.Event] = {}
        client.on_event(self._on_event)

    @classmethod
    @asynccontextmanager
    async def connected(cls, settings: ZooKeeperSettings, name: str) -> AsyncIterator[Requestor]:
        """Connect to ZooKeeper for the length of the block. Raises ConnectionLost."""
        async with connection(settings) as client:
            yield cls(client, name)

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


def _why_failed(request: NodeRequest) -> str:
    reasons = wire.refusal_reasons(request)
    why = "; ".join(reasons) or "no launcher can serve it, and none said why"
    return f"request {request.id} for {', '.join(request.node_types)} failed: {why}"
