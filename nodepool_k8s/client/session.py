"""Nodes for the length of a block: asked for, waited for, locked, and given back at its end.

A node's lock and the request for it belong to the ZooKeeper session, so whoever dies leaves
nothing: the launcher removes what was his. Whoever lives gives back what he has, at the
end of the block and when he is cancelled, wherever that happens.
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
from nodepool_k8s.client.requestor import PRIORITY, AcceptedNode, Requestor
from nodepool_k8s.errors import Conflict, SessionLost, ZooKeeperError, describe
from nodepool_k8s.model import EMPTY, NodeRequest, RequestState
from nodepool_k8s.znodes.requests import WITH_PROGRESS
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper_settings import DEFAULT_SESSION_SECONDS, ZooKeeperSettings, ZooKeeperTLS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a request stands. ``position`` is its place in a pool's line, where that is told."""

    request: str
    text: str
    position: int | None = None


OnWaiting = Callable[[Waiting], None]
"""Hears how the request stands, each time that changes."""


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
        """A node of the label, for the length of the block.

        ``timeout`` in seconds is for getting it. Raises NoNodes, NodeLost, ZooKeeperError.
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
        errand = _NodeRequest(self._requestor, waiting)
        try:
            try:
                async with asyncio.timeout(timeout):
                    await errand.ask(labels, provider, tenant, priority)
                    await errand.wait()
            except TimeoutError as error:
                raise WaitedTooLong(f"no node within {timeout:g} s: {errand.last}") from error
            nodes = await errand.take()
            try:
                yield nodes
            finally:
                for node in nodes:
                    await node.close()
        finally:
            await run_to_completion(errand.end(), grace=DEFAULT_SESSION_SECONDS)


@asynccontextmanager
async def connect(
    zookeeper: str | ZooKeeperSettings | None = None,
    *,
    tls: ZooKeeperTLS | None = None,
    config: str | None = None,
    secure: str | None = None,
    name: str | None = None,
) -> AsyncIterator[NodeSession]:
    """Connect to ZooKeeper for the length of the block.

    ``zookeeper`` is ``HOST:PORT[,HOST:PORT...][/CHROOT]``, and ``config`` a launcher's
    configuration file; without either it is what the environment says. ``name`` is who
    asks, as others see it. Raises NoZooKeeper, BadAddress, ConfigError, ConnectionLost.
    """
    client = ZooKeeperClient(find_zookeeper(zookeeper, tls=tls, config=config, secure=secure))
    try:
        await client.start(make_chroot=False)
        yield NodeSession(client, name or identity())
    finally:
        await client.close()


class _NodeRequest:
    """One request, and the nodes that came of it."""

    def __init__(self, requestor: Requestor, waiting: OnWaiting | None) -> None:
        self._requestor = requestor
        self._session = requestor.client.session
        self._waiting = waiting
        self._progress: model.Progress | None = None
        self._told: Waiting | None = None
        self._request: NodeRequest | None = None
        self._id: str | None = None
        self._held: list[tuple[AcceptedNode, RemoteNode]] = []

    @property
    def last(self) -> str:
        """How the request stood when that was last heard of."""
        return self._told.text if self._told else "nobody has answered the request"

    async def ask(
        self, labels: Sequence[str], provider: str | None, tenant: str | None, priority: str
    ) -> None:
        if not labels:
            raise ValueError("no label: which nodes are wanted?")

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
        told = self._hear if self._waiting else None
        try:
            self._request = await self._requestor.wait(self._id, self._show, told)
        except Conflict as error:
            raise self._gone(f"request {self._id} was withdrawn by somebody") from error

    async def take(self) -> list[RemoteNode]:
        async def accept() -> None:
            assert self._request is not None
            accepted = await self._requestor.accept(self._request)
            session = self._requestor.client.session
            self._held = [(entry, RemoteNode(entry.node, session)) for entry in accepted]
            self._id = None

        try:
            await run_to_completion(accept(), grace=DEFAULT_SESSION_SECONDS)
        except Conflict as error:
            raise self._gone(f"a node was lost before it was used: {describe(error)}") from error
        return [node for _, node in self._held]

    def _gone(self, text: str) -> NodeLost | NoNodes:
        if self._session.over:
            return NodeLost("the ZooKeeper session is over, and the request with it")
        return NoNodes(text)

    async def end(self) -> None:
        """Give back, or withdraw, what there is; the session's end does what we cannot."""
        held, self._held = self._held, []
        try:
            async with asyncio.timeout(DEFAULT_SESSION_SECONDS):
                await asyncio.gather(*(self._let_go(*entry) for entry in held))
                if self._id is not None:
                    await self._requestor.cancel(self._id)
        except SessionLost:
            return
        except (ZooKeeperError, TimeoutError) as error:
            log.warning("Nodes are left to the session's end: %s", describe(error))

    async def _let_go(self, entry: AcceptedNode, node: RemoteNode) -> None:
        if node.kept is None:
            await self._requestor.give_back([entry])
        else:
            await self._requestor.hold(entry, node.kept.comment, node.kept.seconds)

    # --- how it stands ----------------------------------------------------------------------

    def _hear(self, progress: model.Progress | None) -> None:
        self._progress = progress

    def _show(self, request: NodeRequest) -> None:
        progress = self._progress
        text, position = _MEANING[request.state], None
        if progress is not None and request.state in (
            RequestState.REQUESTED,
            RequestState.PENDING,
        ):
            text, position = _in_words(progress), progress.position
        waiting = Waiting(request.id, text, position)
        if waiting == self._told:
            return
        self._told = waiting
        if self._waiting is not None:
            self._waiting(waiting)


_MEANING = {
    RequestState.REQUESTED: "waiting for a launcher with room for it",
    RequestState.PENDING: "a launcher makes its nodes",
    RequestState.FULFILLED: "fulfilled",
    RequestState.FAILED: "failed",
}


def _in_words(progress: model.Progress) -> str:
    if progress.phase is model.Phase.QUEUED:
        place = f", number {progress.position} in line" if progress.position else ""
        return f"queued in {progress.pool}{place}: {progress.why}".removesuffix(": ")
    return f"launching in {progress.pool}: {progress.why}".removesuffix(": ")
