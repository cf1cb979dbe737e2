"""The launcher as a whole: what it is made of, and its life from start to stop.

Two scopes. The daemon's: the clusters and the configuration, which live as long as it
does. The session's: everything that acts on ZooKeeper, which ends with the ZooKeeper
session, because then nothing it held is its own any more; the next session starts from
what is there.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from nodepool_k8s import telemetry
from nodepool_k8s.aio import race
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.drivers.driver import DriverFactory
from nodepool_k8s.errors import ConnectionLost, NodepoolK8sError, SessionLost, describe
from nodepool_k8s.launcher.dump import summary
from nodepool_k8s.launcher.intervals import NORMAL, Intervals
from nodepool_k8s.launcher.metrics_reports import MetricsReporter
from nodepool_k8s.launcher.providers import Providers
from nodepool_k8s.launcher.reload import ConfigFiles, Reloader
from nodepool_k8s.launcher.session import SessionScope
from nodepool_k8s.launcher.snapshot import SnapshotBuilder
from nodepool_k8s.launcher.systemd import SystemdNotifier
from nodepool_k8s.launcher.tasks import Tasks
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.progress import ProgressRecords
from nodepool_k8s.zookeeper.provider_clusters import ProviderClusters
from nodepool_k8s.zookeeper.store import Store

if TYPE_CHECKING:
    from nodepool_k8s.web.server import WebServer

log = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0

ENDING_SECONDS = 15.0
"""What is asked of systemd beyond the drain time: connections are closed at the end."""


class Crashed(NodepoolK8sError):
    """A task ended with an error that nobody foresaw."""


class Launcher:
    """The daemon."""

    def __init__(
        self,
        settings: Settings,
        drivers: DriverFactory,
        *,
        files: ConfigFiles | None = None,
        drain_timeout: float = DRAIN_SECONDS,
        webapp: bool = True,
        notifier: SystemdNotifier | None = None,
        intervals: Intervals = NORMAL,
    ) -> None:
        """``files`` is where ``settings`` came from; without it they never change."""
        self._settings = settings
        self._changed = asyncio.Event()
        """Set whenever the settings become others."""
        self._drain_timeout = drain_timeout
        self._intervals = intervals
        self._notifier = notifier or SystemdNotifier({})
        self._reloader: Reloader | None = None
        if files is not None:
            self._reloader = Reloader(files, settings, self, intervals.files, self._notifier)
        self._said: set[str] = set()
        self._identity = uuid.uuid4().hex
        self._stopping = asyncio.Event()
        self._crash: tuple[str, BaseException] | None = None
        self._tasks = Tasks(self)
        self.providers = Providers(drivers, self._tasks.spawn)
        self.scope: SessionScope | None = None
        """What is served in this ZooKeeper session; None while there is none."""
        self._client: ZooKeeperClient
        self._webapp = webapp
        self.snapshots = SnapshotBuilder(lambda: self._settings, self.providers, self._stopping)
        self.web: WebServer | None = None
        """The web server; None with ``webapp=False``."""
        self.ready = asyncio.Event()
        """Set while requests are being served."""

    @property
    def settings(self) -> Settings:
        """The configuration that is in use."""
        return self._settings

    def stop(self) -> None:
        """Stop taking requests, finish or give back what is in flight, and end."""
        self._notifier.stopping(self._drain_timeout + ENDING_SECONDS)
        self._stopping.set()

    def reload(self) -> None:
        """Read the configuration again now, and take up what has changed."""
        if self._reloader is not None:
            self._reloader.ask()

    def settings_changed(self, settings: Settings) -> None:
        """Serve this configuration from now on."""
        self._settings = settings
        self._say_what_to_know(settings)
        if self.web is not None:
            self.web.reconfigure(settings.webapp)
        self._changed.set()

    def task_crashed(self, task: str, error: BaseException) -> None:
        """Stop: a bug must not stay unnoticed."""
        log.critical("Task %r failed, which must not happen: %s", task, error, exc_info=error)
        self._crash = self._crash or (task, error)
        self._stopping.set()

    async def run(self) -> None:
        """Serve until stopped.

        Raises Crashed.
        """
        self._say_what_to_know(self._settings)
        telemetry.start()
        try:
            async with self._shown():
                await self._run()
        finally:
            await telemetry.stop()

    def _say_what_to_know(self, settings: Settings) -> None:
        for notice in settings.notices:
            if notice not in self._said:
                self._said.add(notice)
                log.info("%s", notice)

    @asynccontextmanager
    async def _shown(self) -> AsyncIterator[None]:
        """The web server comes first and goes last: it says what everything else waits for."""
        tasks = Tasks(self)
        tasks.spawn("tell systemd", self._notifier.keep(self._summary))
        if self._webapp:
            # Not at the top: without a web server, nobody pays for it.
            from nodepool_k8s.web.server import WebServer

            self.web = WebServer(self.snapshots, self._settings.webapp)
            tasks.spawn("web server", self.web.run())
        try:
            yield
        finally:
            await tasks.cancel()

    def _summary(self) -> str:
        return summary(self.snapshots.snapshot(shown=0))

    async def _run(self) -> None:
        self._client = self._new_client()
        try:
            if self._reloader is not None:
                self._tasks.spawn("look for a changed configuration", self._reloader.run())
            await self._or_stopping(self._connect())
            await self._serve_sessions()
        finally:
            await self._tasks.cancel()
            await self.providers.close()
            await self._client.close()
        if self._crash is not None:
            task, error = self._crash
            raise Crashed(f"task {task!r} failed: {describe(error)}") from error

    async def _serve_sessions(self) -> None:
        while not self._stopping.is_set():
            with suppress(SessionLost):
                await self._serve_session(self._client)
            self.ready.clear()
            if self._stopping.is_set():
                return
            if self._has_moved():
                log.info("ZooKeeper is configured differently; connecting anew")
            else:
                log.warning("The ZooKeeper session is over; starting anew")
            await self._or_stopping(self._connect_anew())

    def _new_client(self) -> ZooKeeperClient:
        return ZooKeeperClient(self._settings.zookeeper, telemetry.ZooKeeperFigures())

    def _has_moved(self) -> bool:
        """Whether ZooKeeper is to be reached in another way than it is."""
        return self._settings.zookeeper != self._client.settings

    async def _connect_anew(self) -> None:
        """Begin the next session with a client of its own.

        The old client has opened a session by itself, and what the old scope still did as
        it ended may have slipped into it: a lock, say, of which nobody knows. It ends here.
        """
        await self._client.close()
        self._client = self._new_client()
        await self._connect()

    async def _connect(self) -> None:
        """Connect to ZooKeeper, wherever it is configured to be; try until somebody answers."""
        while True:
            try:
                await race(self._client.start(), self._moved())
            except ConnectionLost as error:
                log.error("%s", error)
            else:
                if not self._has_moved():
                    return
            await self._client.close()
            self._client = self._new_client()

    async def _moved(self) -> None:
        while not self._has_moved():
            self._changed.clear()
            await self._changed.wait()

    async def _serve_session(self, client: ZooKeeperClient) -> None:
        with self.snapshots.connected(client):
            await self._serve_connected(client)

    async def _serve_connected(self, client: ZooKeeperClient) -> None:
        session = client.session
        tasks = Tasks(self)
        mirror = Mirror(client, tasks.spawn)
        store = Store(client, mirror)
        scope = SessionScope(
            self._settings,
            self._identity,
            store,
            mirror,
            self.providers,
            ProviderClusters(client),
            ProgressRecords(client),
            self._intervals,
            self,
        )
        try:
            deployment = await store.prepare()
            seen = client.connections
            await mirror.load()
            await self.providers.begin(deployment)
            tasks.spawn("keep the mirror", _keep(client, mirror, seen))
            self.scope = scope
            await self._or_stopping(self._serve(client, scope, mirror, tasks))
            if not session.over:
                why = "the launcher stops" if self._stopping.is_set() else "ZooKeeper is another"
                await scope.drain(self._drain_timeout, why)
        finally:
            self.scope = None
            await scope.end()
            await tasks.cancel()

    async def _serve(
        self, client: ZooKeeperClient, scope: SessionScope, mirror: Mirror, tasks: Tasks
    ) -> None:
        """Serve what is configured until the session is over, or ZooKeeper is another."""
        session, applied = client.session, self._settings
        await scope.start(applied)
        self.snapshots.serve(mirror, scope)
        MetricsReporter(lambda: self._settings, client, self.snapshots).start(tasks.spawn)
        self.ready.set()
        self._notifier.ready()
        while True:
            log.info("Serving pools %s", ", ".join(pool.key for pool in applied.pools) or "none")
            while applied is self._settings:
                self._changed.clear()
                await race(session.ended(), self._changed.wait())
                if session.over or self._has_moved():
                    return
            applied = self._settings
            await scope.apply(applied)

    async def _or_stopping(self, wait: Coroutine[Any, Any, object]) -> None:
        await race(wait, self._stopping.wait())


async def _keep(client: ZooKeeperClient, mirror: Mirror, seen: int) -> None:
    """List again after each connection after the ``seen``th: watches end with theirs."""
    while True:
        await client.wait_connection_after(seen)
        # Before the listing, which outlives a dropped connection, and its watches do not.
        seen = client.connections
        await mirror.load()
