"""The launcher as a whole: its parts, and its life from start to stop.

Two scopes. The daemon's has the drivers and the configuration, which live as long as the
daemon. The session's has everything that acts on ZooKeeper: it ends with the ZooKeeper
session, as its locks do, and the next session starts from the records that it finds.
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
"""Asked of systemd in addition to the drain time, to close connections."""


class Crashed(NodepoolK8sError):
    """A task ended with an unexpected error."""


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
        """``files`` is what ``settings`` were loaded from; None: they never change."""
        self._settings = settings
        self._changed = asyncio.Event()
        """Set whenever the settings change."""
        self._drain_timeout = drain_timeout
        self._intervals = intervals
        self._notifier = notifier or SystemdNotifier({})
        self._reloader: Reloader | None = None
        if files is not None:
            self._reloader = Reloader(files, settings, self, intervals.files, self._notifier)
        self._notices_logged: set[str] = set()
        self._identity = uuid.uuid4().hex
        self._stopping = asyncio.Event()
        self._crash: tuple[str, BaseException] | None = None
        self._tasks = Tasks(self)
        self.providers = Providers(drivers, self._tasks.spawn)
        self.scope: SessionScope | None = None
        """What is served in this ZooKeeper session; None between two sessions."""
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
        """Read the configuration again now, and apply what has changed."""
        if self._reloader is not None:
            self._reloader.ask()

    def settings_changed(self, settings: Settings) -> None:
        """Serve this configuration from now on."""
        self._settings = settings
        self._log_notices(settings)
        if self.web is not None:
            self.web.reconfigure(settings.webapp)
        self._changed.set()

    def task_crashed(self, task: str, error: BaseException) -> None:
        """Stop: a bug must not stay unnoticed."""
        log.critical("Task %r failed unexpectedly (bug): %s", task, error, exc_info=error)
        self._crash = self._crash or (task, error)
        self._stopping.set()

    async def run(self) -> None:
        """Serve until stopped.

        Raises Crashed.
        """
        self._log_notices(self._settings)
        telemetry.start()
        try:
            async with self._shown():
                await self._run()
        finally:
            await telemetry.stop()

    def _log_notices(self, settings: Settings) -> None:
        for notice in settings.notices:
            if notice not in self._notices_logged:
                self._notices_logged.add(notice)
                log.info("%s", notice)

    @asynccontextmanager
    async def _shown(self) -> AsyncIterator[None]:
        """Run the web server, which starts first and ends last, so that it can show every state."""
        tasks = Tasks(self)
        tasks.spawn("tell systemd", self._notifier.keep(self._summary))
        if self._webapp:
            # Not at the top, so that a launcher without a web server does not import it.
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
                log.info("The ZooKeeper settings have changed; reconnecting")
            else:
                log.warning("The ZooKeeper session has ended; starting a new one")
            await self._or_stopping(self._reconnect())

    def _new_client(self) -> ZooKeeperClient:
        return ZooKeeperClient(self._settings.zookeeper, telemetry.ZooKeeperFigures())

    def _has_moved(self) -> bool:
        """Whether the ZooKeeper settings have changed since the client connected."""
        return self._settings.zookeeper != self._client.settings

    async def _reconnect(self) -> None:
        """Start the next session with a new client.

        The old client has opened another session by itself, and the old scope may have
        created something in it while it ended, a lock for instance. That session ends here.
        """
        await self._client.close()
        self._client = self._new_client()
        await self._connect()

    async def _connect(self) -> None:
        """Connect to ZooKeeper as it is configured now; retry until a server answers."""
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
                why = (
                    "the launcher stops"
                    if self._stopping.is_set()
                    else "the ZooKeeper settings have changed"
                )
                await scope.drain(self._drain_timeout, why)
        finally:
            self.scope = None
            await scope.end()
            await tasks.cancel()

    async def _serve(
        self, client: ZooKeeperClient, scope: SessionScope, mirror: Mirror, tasks: Tasks
    ) -> None:
        """Serve the configuration until the session ends, or the ZooKeeper settings change."""
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
    """List again after each connection after the ``seen``th: its watches end with it."""
    while True:
        await client.wait_connection_after(seen)
        # Read before the listing, which goes on when a connection drops; its watches do not.
        seen = client.connections
        await mirror.load()
