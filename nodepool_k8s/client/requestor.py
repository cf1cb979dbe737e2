"""Ask for nodes as Zuul does, with one connection: request, wait, accept, use, return.

::

    async with Requestor.connected(settings.zookeeper, "me") as requestor:
        request = await requestor.wait(await requestor.submit(["pod-fedora"]))
        async with requestor.using(request) as nodes:
            ...

The steps one by one, for who needs them so; ``session`` has what a program wants.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
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
from nodepool_k8s.zookeeper.operations import Delete, SetData
from nodepool_k8s.zookeeper_settings import ZooKeeperSettings

PRIORITY = "200"
"""Zuul's normal priority; a lower number goes first."""

T = TypeVar("T")

Progress = Callable[[NodeRequest], None]
Told = Callable[[model.Progress | None], None]


@dataclass(frozen=True, slots=True)
class AcceptedNode:
    """A node that we hold locked."""

    node: Node
    lock: str


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
        ephemeral: bool = False,
        extra: Mapping[str, Any] = EMPTY,
    ) -> str:
        """Write a request for one node of each label; its id.

        An ephemeral one goes with our session, so that nobody makes nodes for the dead.
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
                await self._make_room()
            except SessionLost:
                raise
            except ConnectionLost:
                # It was written, or it was not.
                written = await self._with_nonce(nonce)
                if written is not None:
                    return written

    async def _make_room(self) -> None:
        # Making the chroot as well would be to wait for launchers that are elsewhere.
        if await self.client.exists("/") is None:
            raise NoZooKeeper(
                f"there is nothing at {self.client.settings.hosts}: is the part after the slash, "
                "the chroot, the launchers'?"
            )
        await self.client.ensure_path(paths.REQUESTS)

    async def _with_nonce(self, nonce: str) -> str | None:
        for request in await self.requests():
            own = request.extra.get(DRIVER_KEY)
            if isinstance(own, dict) and own.get("nonce") == nonce:
                return request.id
        return None

    async def wait(
        self, request_id: str, progress: Progress | None = None, told: Told | None = None
    ) -> NodeRequest:
        """Wait until the request is fulfilled; ``progress`` sees it each time it changes.

        ``told`` hears what a launcher of ours says that it waits for, None where none says
        anything. Raises RequestFailed, Vanished.
        """
        path, more = request_path(request_id), progress_path(request_id)
        changed = asyncio.Event()
        watched = [path, more] if told else [path]
        self._changed |= dict.fromkeys(watched, changed)
        connections = -1
        try:
            while True:
                changed.clear()
                looks: list[Awaitable[Any]] = [self.read(request_id)]
                if told:
                    looks.append(self._read_progress(request_id))
                if connections != self.client.connections:
                    connections = self.client.connections
                    # In one go: the connection keeps the order, and the watch comes first.
                    looks = [*map(self.client.watch_recursively, watched), *looks]
                found = await settle_all(looks)
                request: NodeRequest = found[-2 if told else -1]
                if told:
                    told(found[-1])
                if progress is not None:
                    progress(request)
                if request.state is RequestState.FULFILLED:
                    return request
                if request.state is RequestState.FAILED:
                    raise RequestFailed(_why_failed(request))
                await self._news(changed, connections)
        finally:
            for path in watched:
                self._changed.pop(path, None)

    async def _read_progress(self, request_id: str) -> model.Progress | None:
        try:
            data, _ = await self.client.get(progress_path(request_id))
            return parse_progress(request_id, data)
        except (Vanished, MalformedRecord):
            return None

    async def _news(self, changed: asyncio.Event, connections: int) -> None:
        """Wait for an event, or for a new connection, which knows nothing of our watch."""
        await race(changed.wait(), self.client.wait_connection_after(connections))

    async def cancel(self, request_id: str) -> None:
        """Withdraw a request; nodes that were made for it are the launcher's to remove."""
        with suppress(Conflict):
            await self.client.transaction([Delete(request_path(request_id))])

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
        """Lock the nodes, set them in use and drop the request, all of it or nothing.

        Raises Held or Vanished where a node is not ours to have.
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
            drop = Delete(request_path(request.id))
            try:
                await self.client.transaction([*lock_set.operations(), *map(_write, used), drop])
            except TransactionConflict as conflict:
                if lock_set.adjust(conflict) or isinstance(conflict.cause, Outdated):
                    continue
                raise conflict.cause from conflict
            return [
                AcceptedNode(_written(node), lock)
                for node, lock in zip(used, held_locks, strict=True)
            ]

    async def give_back(self, nodes: Sequence[AcceptedNode]) -> None:
        """Mark the nodes used and let them go; the launcher removes them."""
        await settle_all([self._leave(entry, NodeState.USED, EMPTY) for entry in nodes])

    async def hold(self, entry: AcceptedNode, comment: str, expiration: int | None) -> None:
        """Let a node go, but have it kept, for so many seconds or for ever."""
        fields = {"comment": comment, "hold_job": self._name, "hold_expiration": expiration}
        await self._leave(entry, NodeState.HOLD, fields)

    async def _leave(
        self, entry: AcceptedNode, state: NodeState, fields: Mapping[str, Any]
    ) -> None:
        node = entry.node
        while may_move_node(node, state):
            left = move_node(node, state, time.time(), extra={**node.extra, **fields})
            try:
                await self.client.transaction([_write(left), Delete(entry.lock)])
            except TransactionConflict as conflict:
                if not isinstance(conflict.cause, Outdated):
                    return  # Node or lock are gone: it is not ours any more.
            else:
                return
            try:
                # Somebody wrote something else into it, which nothing forbids.
                node = await self.read_node(node.id)
            except Vanished:
                return


def _require_allocated(node: Node, request: NodeRequest) -> None:
    if node.allocated_to != request.id:
        raise Held(f"node {node.id} is allocated to {node.allocated_to}")
    if node.state is not NodeState.READY:
        raise Held(f"node {node.id} is {node.state} by now")


def _write(node: Node) -> SetData:
    return SetData(node_path(node.id), encode_node(node), node.version)


def _written(node: Node) -> Node:
    return dataclasses.replace(node, version=node.version + 1)


def _why_failed(request: NodeRequest) -> str:
    reasons = refusal_reasons(request)
    why = "; ".join(reasons) or "no launcher can serve it, and none said why"
    return f"request {request.id} for {', '.join(request.node_types)} failed: {why}"
