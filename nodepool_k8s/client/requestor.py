"""Requests nodes as Zuul does, with one connection: submit, wait, accept, use, return.

::

    async with Requestor.connected(settings.zookeeper, "me") as requestor:
        request = await requestor.wait(await requestor.submit(["pod-fedora"]))
        async with requestor.using(request) as nodes:
            ...

Each step is a method of its own; most programs use ``session`` instead.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from nodepool_k8s import model
from nodepool_k8s.aio import race, settle_all
from nodepool_k8s.client.errors import NoZooKeeper, RequestFailed
from nodepool_k8s.client.viewer import Viewer, connection
from nodepool_k8s.errors import (
    Conflict,
    ConnectionLost,
    Held,
    MalformedRecord,
    Outdated,
    SessionLost,
    Vanished,
)
from nodepool_k8s.model import EMPTY, Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.policy.lifecycle import may_move_node, move_node
from nodepool_k8s.znodes import paths
from nodepool_k8s.znodes.encoding import DRIVER_KEY
from nodepool_k8s.znodes.nodes import encode_node
from nodepool_k8s.znodes.paths import node_lock_path, node_path, progress_path, request_path
from nodepool_k8s.znodes.progress import parse_progress
from nodepool_k8s.znodes.requests import encode_request, refusal_reasons
from nodepool_k8s.zookeeper import locks
from nodepool_k8s.zookeeper.client import TransactionConflict, ZooKeeperClient
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper.operations import Delete, SetData
from nodepool_k8s.zookeeper_settings import ZooKeeperSettings

PRIORITY = "200"
"""Zuul's normal priority; a lower number goes first."""

T = TypeVar("T")

OnRequest = Callable[[NodeRequest], None]
"""Called with the request each time that it changes."""

OnProgress = Callable[[model.Progress | None], None]
"""Called with what the launcher waits for; None if no launcher has published that."""


class Requestor(Viewer):
    """Requests nodes, with one connection to ZooKeeper."""

    def __init__(self, client: ZooKeeperClient, name: str) -> None:
        super().__init__(client)
        self._name = name
        self._changed: dict[str, asyncio.Event] = {}
        client.on_event(self._on_event)

    @classmethod
    @asynccontextmanager
    async def connected(cls, settings: ZooKeeperSettings, name: str) -> AsyncIterator[Requestor]:
        """Connect to ZooKeeper for the duration of the block. Raises ConnectionLost."""
        async with connection(settings) as client:
            yield cls(client, name)

    def _on_event(self, _kind: str, path: str) -> None:
        changed = self._changed.get(path)
        if changed is not None:
            changed.set()

    # --- requesting -----------------------------------------------------------------------

    async def submit(
        self,
        labels: Sequence[str],
        *,
        priority: str = PRIORITY,
        provider: str | None = None,
        tenant: str | None = None,
        event_id: str | None = None,
        relative_priority: int = 0,
        ephemeral: bool = False,
        extra: Mapping[str, Any] = EMPTY,
    ) -> str:
        """Create a request for one node of each label, and return its id.

        An ephemeral request is deleted when our session ends, so that launchers do not
        create nodes for requestors that died.
        """
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
            extra={**extra, DRIVER_KEY: {"nonce": (nonce := uuid.uuid4().hex)}},
        )
        prefix, data = f"{paths.REQUESTS}/{priority}-", encode_request(request)
        while True:
            try:
                path = await self.client.create_sequence(prefix, data, ephemeral=ephemeral)
                return path.rpartition("/")[2]
            except Vanished:
                await self._create_parents()
            except SessionLost:
                raise
            except ConnectionLost:
                # It may have been created, or not.
                created = await self._find_by_nonce(nonce)
                if created is not None:
                    return created

    async def _create_parents(self) -> None:
        # A missing chroot is not created: launchers use another one.
        if await self.client.exists("/") is None:
            raise NoZooKeeper(
                f"{self.client.settings.hosts} does not exist in ZooKeeper; is the chroot, the "
                "part after the slash, that of the launchers?"
            )
        await self.client.ensure_path(paths.REQUESTS)

    async def _find_by_nonce(self, nonce: str) -> str | None:
        for request in await self.requests():
            own = request.extra.get(DRIVER_KEY)
            if isinstance(own, dict) and own.get("nonce") == nonce:
                return request.id
        return None

    async def wait(
        self,
        request_id: str,
        on_request: OnRequest | None = None,
        on_progress: OnProgress | None = None,
    ) -> NodeRequest:
        """Wait until the request is fulfilled, and return it.

        The callbacks are called for each change. Raises RequestFailed, Vanished.
        """
        path = request_path(request_id)
        changed = asyncio.Event()
        watched = [path, progress_path(request_id)] if on_progress else [path]
        self._changed |= dict.fromkeys(watched, changed)
        connections = -1
        try:
            while True:
                changed.clear()
                reads: list[Awaitable[Any]] = [self.read(request_id)]
                if on_progress:
                    reads.append(self._read_progress(request_id))
                if connections != self.client.connections:
                    connections = self.client.connections
                    # Sent together: the connection keeps the order, and the watch comes first.
                    reads = [*map(self.client.watch_recursively, watched), *reads]
                found = await settle_all(reads)
                request: NodeRequest = found[-2 if on_progress else -1]
                if on_progress:
                    on_progress(found[-1])
                if on_request is not None:
                    on_request(request)
                if request.state is RequestState.FULFILLED:
                    return request
                if request.state is RequestState.FAILED:
                    raise RequestFailed(_why_failed(request))
                await self._wait_for_change(changed, connections)
        finally:
            for path in watched:
                self._changed.pop(path, None)

    async def _read_progress(self, request_id: str) -> model.Progress | None:
        try:
            data, _ = await self.client.get(progress_path(request_id))
            return parse_progress(request_id, data)
        except (Vanished, MalformedRecord):
            return None

    async def _wait_for_change(self, changed: asyncio.Event, connections: int) -> None:
        """Wait for an event, or for a new connection, which has lost our watch."""
        await race(changed.wait(), self.client.wait_connection_after(connections))

    async def cancel(self, request_id: str) -> None:
        """Delete a request; the launcher removes nodes that were created for it."""
        with suppress(Conflict):
            await self.client.transaction([Delete(request_path(request_id))])

    # --- using -----------------------------------------------------------------------------

    @asynccontextmanager
    async def using(self, request: NodeRequest) -> AsyncIterator[list[HeldNode]]:
        """Accept the nodes of a fulfilled request, and return them at the end."""
        nodes = await self.accept(request)
        try:
            yield nodes
        finally:
            await asyncio.shield(self.give_back(nodes))

    async def accept(self, request: NodeRequest) -> list[HeldNode]:
        """Lock the nodes, set them ``in-use`` and delete the request, in one transaction.

        Raises Held or Vanished if a node cannot be accepted.
        """
        lock_set = locks.LockSet()
        held_locks = [
            lock_set.add(node_lock_path(node_id), expect_missing=False) for node_id in request.nodes
        ]
        while True:
            nodes = await settle_all([self.read_node(node_id) for node_id in request.nodes])
            for node in nodes:
                _require_allocated(node, request)
            used = [move_node(node, NodeState.IN_USE, time.time()) for node in nodes]
            deletion = Delete(request_path(request.id))
            try:
                await self.client.transaction(
                    [*lock_set.operations(), *map(_write, used), deletion]
                )
            except TransactionConflict as conflict:
                if lock_set.adjust(conflict) or isinstance(conflict.cause, Outdated):
                    continue
                raise conflict.cause from conflict
            return [
                HeldNode(_written(node), lock) for node, lock in zip(used, held_locks, strict=True)
            ]

    async def give_back(self, nodes: Sequence[HeldNode]) -> None:
        """Set the nodes ``used`` and unlock them; the launcher removes them."""
        await settle_all([self._unlock(entry, NodeState.USED, EMPTY) for entry in nodes])

    async def hold(self, entry: HeldNode, comment: str, expiration: int | None) -> None:
        """Set a node ``hold`` and unlock it; ``expiration`` in seconds, or None for no limit."""
        fields = {"comment": comment, "hold_job": self._name, "hold_expiration": expiration}
        await self._unlock(entry, NodeState.HOLD, fields)

    async def _unlock(self, entry: HeldNode, state: NodeState, fields: Mapping[str, Any]) -> None:
        node = entry.node
        while may_move_node(node, state):
            unlocked = move_node(node, state, time.time(), extra={**node.extra, **fields})
            try:
                await self.client.transaction([_write(unlocked), Delete(entry.lock)])
            except TransactionConflict as conflict:
                if not isinstance(conflict.cause, Outdated):
                    return  # Node or lock are gone: we no longer hold it.
            else:
                return
            try:
                # Another process wrote the record, which the lock does not prevent.
                node = await self.read_node(node.id)
            except Vanished:
                return


def _require_allocated(node: Node, request: NodeRequest) -> None:
    if node.allocated_to != request.id:
        raise Held(f"node {node.id} is allocated to {node.allocated_to}")
    if node.state is not NodeState.READY:
        raise Held(f"node {node.id} is {node.state} now")


def _write(node: Node) -> SetData:
    return SetData(node_path(node.id), encode_node(node), node.version)


def _written(node: Node) -> Node:
    return dataclasses.replace(node, version=node.version + 1)


def _why_failed(request: NodeRequest) -> str:
    reasons = refusal_reasons(request)
    why = "; ".join(reasons) or "all launchers declined it without a reason"
    return f"request {request.id} for {', '.join(request.node_types)} failed: {why}"
