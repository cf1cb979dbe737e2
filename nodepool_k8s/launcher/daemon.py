"""The launcher as a whole: what it is made of, and its life from start to stop.

Two scopes. The daemon's: the clusters, which live as long as it does. The session's:
everything that acts on ZooKeeper, which ends with the ZooKeeper session, because then
nothing it held is its own any more; the next session starts from what is there.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from nodepool_k8s.config.settings import Settings
from nodepool_k8s.errors import ConnectionLost, NodepoolK8sError, SessionLost, describe
from nodepool_k8s.launcher.clusters import Clusters
from nodepool_k8s.launcher.session import SessionScope
from nodepool_k8s.launcher.tasks import Tasks
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Store

log = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0


class Crashed(NodepoolK8sError):
    """A task ended with an error that nobody foresaw."""


class Launcher:
    """The daemon."""

    def __init__(self, settings: Settings, *, drain_timeout: float = DRAIN_SECONDS) -> None:
        self._settings = settings
        self._drain_timeout = drain_timeout
        self._identity = uuid.uuid4().hex
        self._stopping = asyncio.Event()
        self._crash: tuple[str, BaseException] | None = None
        self._tasks = Tasks(self._crashed)
        self._clusters = Clusters(self._tasks)
        self._client: ZooKeeperClient
        self.ready = asyncio.Event()
        """Set while requests are being served."""

    def stop(self) -> None:
        """Stop taking requests, give back what is in flight, and end."""
        self._stopping.set()

    def _crashed(self, task: str, error: BaseException) -> None:
        log.critical("Task %r failed, which must not happen: %s", task, error, exc_info=error)
        self._crash = self._crash or (task, error)
        self._stopping.set()

    async def run(self) -> None:
        """Serve until stopped.

        Raises Crashed, and ZooKeeperError where ZooKeeper cannot be reached at start.
        """
        for notice in self._settings.notices:
            log.info("%s", notice)
        for option in without_effect(self._settings):
            log.warning("%s has no effect yet", option)
        self._client = ZooKeeperClient(self._settings.zookeeper)
        await self._client.start()
        try:
            await self._serve_sessions()
        finally:
            await self._tasks.cancel()
            await self._clusters.close()
            await self._client.close()
        if self._crash is not None:
            task, error = self._crash
            raise Crashed(f"task {task!r} failed: {describe(error)}") from error

    async def _serve_sessions(self) -> None:
        while not self._stopping.is_set():
            with suppress(SessionLost):
                await self._serve_session(self._client)
            self.ready.clear()
            if not self._stopping.is_set():
                log.warning("The ZooKeeper session is over; starting anew")
                await self._or_stopping(self._connect_anew())

    async def _connect_anew(self) -> None:
        """Begin the next session with a client of its own.

        The old client has opened a session by itself, and what the old scope still did as
        it ended may have slipped into it: a lock, say, of which nobody knows. It ends here.
        """
        await self._client.close()
        while True:
            self._client = ZooKeeperClient(self._settings.zookeeper)
            try:
                return await self._client.start()
            except ConnectionLost as error:
                log.warning("%s", error)

    async def _serve_session(self, client: ZooKeeperClient) -> None:
        session = client.session
        tasks = Tasks(self._crashed)
        mirror = Mirror(client, tasks.spawn)
        store = Store(client, mirror)
        scope = SessionScope(self._settings, self._identity, store, mirror, self._crashed)
        try:
            deployment = await store.prepare()
            seen = client.connections
            await mirror.load()
            self._clusters.add(self._settings.providers, deployment)
            tasks.spawn("keep the mirror", _keep(client, mirror, seen))
            await scope.start(self._clusters)
            log.info("Serving pools %s", ", ".join(p.key for p in self._settings.pools) or "none")
            self.ready.set()
            await self._or_stopping(session.ended())
            if not session.over:
                await scope.drain(self._drain_timeout)
        finally:
            await scope.end()
            await tasks.cancel()

    async def _or_stopping(self, wait: Coroutine[Any, Any, object]) -> None:
        waits = {asyncio.ensure_future(wait), asyncio.ensure_future(self._stopping.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waits:
                future.cancel()


def without_effect(settings: Settings) -> list[str]:
    """Options that the configuration has and this launcher does not serve yet."""
    labels = settings.labels.values()
    found = {
        "min-ready": any(label.min_ready > 0 for label in labels),
        "max-ready-age": any(label.max_ready_age for label in labels),
        "max-hold-age": settings.max_hold_age is not None,
        "tenant-resource-limits": bool(settings.tenant_limits),
    }
    return [option for option, named in found.items() if named]


async def _keep(client: ZooKeeperClient, mirror: Mirror, seen: int) -> None:
    """List again after each connection after the ``seen``th: watches end with theirs."""
    while True:
        await client.wait_connection_after(seen)
        # Before the listing, which outlives a dropped connection, and its watches do not.
        seen = client.connections
        await mirror.load()
