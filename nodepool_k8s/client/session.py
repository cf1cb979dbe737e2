"""Nodes for the duration of a block: requested, locked, and returned at its end.

Nodes are returned at the end of the block, and when its task is cancelled at any await. The
nodes' locks and the request are ephemeral: if the program dies, its ZooKeeper session
expires, and the launcher removes the nodes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from nodepool_k8s import model
from nodepool_k8s.aio import run_to_completion
from nodepool_k8s.client.discovery import find_zookeeper, identity
from nodepool_k8s.client.errors import NodeLost, NoNodes, WaitedTooLong
from nodepool_k8s.client.node import RemoteNode
from nodepool_k8s.client.requestor import PRIORITY, Requestor
from nodepool_k8s.errors import Conflict, SessionLost, ZooKeeperError, describe
from nodepool_k8s.model import EMPTY, NodeRequest, RequestState
from nodepool_k8s.znodes.requests import WITH_PROGRESS
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper_settings import DEFAULT_SESSION_SECONDS, ZooKeeperSettings, ZooKeeperTLS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """The status of a request. ``position`` is its place in a pool's queue, or None."""

    request: str
    text: str
    position: int | None = None


OnWaiting = Callable[[Waiting], None]
"""Called with the status of the request each time that it changes."""


class NodeSession:
    """A connection to ZooKeeper, for any number of requests at once."""

    def __init__(self, client: ZooKeeperClient, name: str) -> None:
        self._requestor = Requestor(client, name)

    @asynccontextmanager
    async def node(
        self,
        label: str,
        *,
        provider: str | None = None,
        tenant: str | None = None,
        priority: str = PRIORITY,
        timeout: float | None = None,
        waiting: OnWaiting | None = None,
    ) -> AsyncIterator[RemoteNode]:
        """A node of the label for the duration of the block.

        ``timeout`` in seconds limits the wait for it. Raises NoNodes, NodeLost,
        ZooKeeperError.
        """
        async with self.nodes(
            label,
            provider=provider,
            tenant=tenant,
            priority=priority,
            timeout=timeout,
            waiting=waiting,
        ) as found:
            yield found[0]

    @asynccontextmanager
    async def nodes(
        self,
        *labels: str,
        provider: str | None = None,
        tenant: str | None = None,
        priority: str = PRIORITY,
        timeout: float | None = None,
        waiting: OnWaiting | None = None,
    ) -> AsyncIterator[list[RemoteNode]]:
        """A node of each label, in that order and all from one pool; otherwise as ``node``."""
        request = _PendingRequest(self._requestor, waiting)
        try:
            try:
                async with asyncio.timeout(timeout):
                    await request.submit(labels, provider, tenant, priority)
                    await request.wait()
            except TimeoutError as error:
                raise WaitedTooLong(f"no node within {timeout:g} s: {request.status}") from error
            nodes = await request.accept()
            try:
                yield nodes
            finally:
                for node in nodes:
                    await node.close()
        finally:
            await run_to_completion(request.close(), grace=DEFAULT_SESSION_SECONDS)


@asynccontextmanager
async def connect(
    zookeeper: str | ZooKeeperSettings | None = None,
    *,
    tls: ZooKeeperTLS | None = None,
    config: str | None = None,
    secure: str | None = None,
    name: str | None = None,
) -> AsyncIterator[NodeSession]:
    """Connect to ZooKeeper for the duration of the block.

    ``zookeeper`` is ``HOST:PORT[,HOST:PORT...][/CHROOT]``, and ``config`` a launcher's
    configuration file; without both, environment variables are used. ``name`` is the
    requestor's name in requests. Raises NoZooKeeper, BadAddress, ConfigError,
    ConnectionLost.
    """
    client = ZooKeeperClient(find_zookeeper(zookeeper, tls=tls, config=config, secure=secure))
    try:
        await client.start(make_chroot=False)
        yield NodeSession(client, name or identity())
    finally:
        await client.close()


class _PendingRequest:
    """One request, and then the nodes that it was fulfilled with."""

    def __init__(self, requestor: Requestor, waiting: OnWaiting | None) -> None:
        self._requestor = requestor
        self._session = requestor.client.session
        self._waiting = waiting
        self._progress: model.Progress | None = None
        self._last: Waiting | None = None
        self._request: NodeRequest | None = None
        self._id: str | None = None
        self._held: list[tuple[HeldNode, RemoteNode]] = []

    @property
    def status(self) -> str:
        """The last known status of the request."""
        return self._last.text if self._last else "no launcher has responded"

    async def submit(
        self, labels: Sequence[str], provider: str | None, tenant: str | None, priority: str
    ) -> None:
        if not labels:
            raise ValueError("at least one label is required")

        async def submit() -> None:
            self._id = await self._requestor.submit(
                labels,
                provider=provider,
                tenant=tenant,
                priority=priority,
                ephemeral=True,
                extra=WITH_PROGRESS if self._waiting else EMPTY,
            )

        await run_to_completion(submit(), grace=DEFAULT_SESSION_SECONDS)

    async def wait(self) -> None:
        assert self._id is not None
        on_progress = self._on_progress if self._waiting else None
        try:
            self._request = await self._requestor.wait(self._id, self._on_request, on_progress)
        except Conflict as error:
            raise self._lost(f"request {self._id} was deleted") from error

    async def accept(self) -> list[RemoteNode]:
        async def accept() -> None:
            assert self._request is not None
            accepted = await self._requestor.accept(self._request)
            session = self._requestor.client.session
            self._held = [(entry, RemoteNode(entry.node, session)) for entry in accepted]
            self._id = None

        try:
            await run_to_completion(accept(), grace=DEFAULT_SESSION_SECONDS)
        except Conflict as error:
            raise self._lost(f"a node was lost before it was used: {describe(error)}") from error
        return [node for _, node in self._held]

    def _lost(self, text: str) -> NodeLost | NoNodes:
        if self._session.over:
            return NodeLost("the ZooKeeper session ended, which deleted the request")
        return NoNodes(text)

    async def close(self) -> None:
        """Return the nodes, or cancel the request; on errors the session's end does it."""
        held, self._held = self._held, []
        try:
            async with asyncio.timeout(DEFAULT_SESSION_SECONDS):
                await asyncio.gather(*(self._release(*entry) for entry in held))
                if self._id is not None:
                    await self._requestor.cancel(self._id)
        except SessionLost:
            return
        except (ZooKeeperError, TimeoutError) as error:
            log.warning(
                "Cannot return nodes; the end of the session releases them: %s", describe(error)
            )

    async def _release(self, entry: HeldNode, node: RemoteNode) -> None:
        if node.kept is None:
            await self._requestor.give_back([entry])
        else:
            await self._requestor.hold(entry, node.kept.comment, node.kept.seconds)

    # --- status -----------------------------------------------------------------------------

    def _on_progress(self, progress: model.Progress | None) -> None:
        self._progress = progress

    def _on_request(self, request: NodeRequest) -> None:
        progress = self._progress
        text, position = _STATUS[request.state], None
        if progress is not None and request.state in (
            RequestState.REQUESTED,
            RequestState.PENDING,
        ):
            text, position = _describe_progress(progress), progress.position
        waiting = Waiting(request.id, text, position)
        if waiting == self._last:
            return
        self._last = waiting
        if self._waiting is not None:
            self._waiting(waiting)


_STATUS = {
    RequestState.REQUESTED: "waiting for a launcher with free quota",
    RequestState.PENDING: "a launcher is creating its nodes",
    RequestState.FULFILLED: "fulfilled",
    RequestState.FAILED: "failed",
}


def _describe_progress(progress: model.Progress) -> str:
    if progress.phase is model.Phase.QUEUED:
        place = f", number {progress.position} in line" if progress.position else ""
        return f"queued in {progress.pool}{place}: {progress.why}".removesuffix(": ")
    return f"launching in {progress.pool}: {progress.why}".removesuffix(": ")
