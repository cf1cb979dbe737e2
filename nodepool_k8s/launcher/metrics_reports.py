"""When metrics are reported: what Prometheus may read, and what statsd is sent.

Values come from a snapshot, taken when Prometheus asks or when statsd's timer fires.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from nodepool_k8s import telemetry
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.launcher.snapshot import SnapshotBuilder
from nodepool_k8s.snapshot import LauncherSnapshot
from nodepool_k8s.zookeeper import election
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.mirror import Spawn

SEND_SECONDS = 10.0
LAG_SECONDS = 2.0


class MetricsReporter:
    """Reports metrics while one ZooKeeper session is served."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        client: ZooKeeperClient,
        snapshots: SnapshotBuilder,
    ) -> None:
        self._settings = settings
        self._client = client
        self._snapshots = snapshots

    def start(self, spawn: Spawn) -> None:
        """Report until the tasks are cancelled."""
        telemetry.observe(self._take)
        watch = spawn("watch the event loop", _watch_loop())
        watch.add_done_callback(lambda _: telemetry.forget(self._take))
        server = telemetry.statsd_server()
        if server is not None:
            spawn("send statsd gauges", self._send(server))

    def _take(self) -> LauncherSnapshot:
        return self._snapshots.snapshot(shown=0)

    async def _send(self, server: telemetry.Statsd) -> None:
        """Send this launcher's gauges, and if it is elected those of all ZooKeeper records."""
        identity = f"{socket.gethostname()}-{os.getpid()}"
        stats = election.Election(self._client, election.STATS, identity)
        while True:
            await server.resolve()
            server.gauges(telemetry.launcher_gauges(self._client.queued))
            server.gauges(telemetry.limit_gauges(self._settings()))
            if await stats.won():
                server.gauges(telemetry.record_gauges(self._snapshots.record_counts()))
            await asyncio.sleep(SEND_SECONDS)


async def _watch_loop() -> None:
    """Measure how late a timer fires, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        telemetry.loop_lagged(loop.time() - due)
