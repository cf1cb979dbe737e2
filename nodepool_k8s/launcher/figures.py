"""What the launcher's figures are taken from, and when those of statsd are sent.

Nothing is kept count of for it: all is looked up in memory when Prometheus asks, or when
statsd's timer is due.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from nodepool_k8s import telemetry
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.launcher.providers import Providers
from nodepool_k8s.launcher.view import Scope
from nodepool_k8s.model import NodeState, Resources
from nodepool_k8s.znodes.paths import ledger_path, tenant_ledger_path
from nodepool_k8s.zookeeper import election
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.mirror import Mirror, Spawn

SEND_SECONDS = 10.0
LAG_SECONDS = 2.0
STUCK_SECONDS = 60.0
"""A node that is being deleted for longer than that counts as stuck."""


class Figures:
    """One ZooKeeper session, as ``telemetry.Source``."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        providers: Providers,
        client: ZooKeeperClient,
        mirror: Mirror,
        scope: Scope,
    ) -> None:
        self._settings = settings
        self._providers = providers
        self._client = client
        self._mirror = mirror
        self._scope = scope

    def start(self, spawn: Spawn) -> None:
        """Begin to tell and to send, until the tasks are cancelled."""
        telemetry.observe(self)
        watch = spawn("watch the event loop", _watch_loop())
        watch.add_done_callback(lambda _: telemetry.forget(self))
        server = telemetry.statsd_server()
        if server is not None:
            spawn("send figures", self._send(server))

    # --- statsd ------------------------------------------------------------------------------

    async def _send(self, server: telemetry.Statsd) -> None:
        """Every ten seconds our own gauges, and the whole fleet's if we are elected."""
        identity = f"{socket.gethostname()}-{os.getpid()}"
        stats = election.Election(self._client, election.STATS, identity)
        while True:
            await server.resolve()
            server.gauges(telemetry.launcher_gauges(self._client.queued))
            server.gauges(telemetry.limit_gauges(self._settings()))
            if await stats.won():
                server.gauges(telemetry.record_gauges(self.state()))
            await asyncio.sleep(SEND_SECONDS)

    # --- the state ---------------------------------------------------------------------------

    def state(self) -> telemetry.State:
        """What is there now."""
        mirror = self._mirror
        return telemetry.State(
            requests=mirror.requests.values(),
            nodes=mirror.nodes.values(),
            components=mirror.components.values(),
            pools=list(self._pools()),
            tenants=list(self._tenants()),
            connected=self._connected(),
            stuck=self._stuck(),
            terminating=self._terminating(),
        )

    def _pools(self) -> Iterator[telemetry.PoolState]:
        launching = self._launching()
        for queue in self._scope.queues.values():
            pool = queue.pool
            yield telemetry.PoolState(
                provider=pool.provider,
                name=pool.name,
                queued=queue.waiting_count,
                launching=launching[pool.key],
                paused=queue.component.paused,
                used=self._used(ledger_path(pool.provider, pool.name)),
                limits=pool.limits,
            )

    def _launching(self) -> Counter[str]:
        launching: Counter[str] = Counter()
        for fulfilment in self._scope.fulfilments.values():
            launching[fulfilment.pool.key] += sum(
                launch.held.node.state is not NodeState.READY for launch in fulfilment.launches
            )
        return launching

    def _tenants(self) -> Iterator[telemetry.TenantState]:
        for tenant, limits in self._settings().tenant_limits.items():
            yield telemetry.TenantState(tenant, self._used(tenant_ledger_path(tenant)), limits)

    def _used(self, path: str) -> Resources:
        """By the ledger, which is never behind, and what is in none."""
        usage, ledger = self._mirror.usage(path), self._mirror.ledgers.get(path)
        return (ledger.claimed if ledger else usage.claimed) + usage.foreign

    def _connected(self) -> Mapping[str, bool]:
        return {name: self._is_connected(name) for name in self._provider_names()}

    def _is_connected(self, provider: str) -> bool:
        return provider in self._providers and self._providers[provider].health.in_touch

    def _provider_names(self) -> Iterable[str]:
        return (provider.name for provider in self._settings().providers)

    def _stuck(self) -> Mapping[str, int]:
        stuck = dict.fromkeys(self._provider_names(), 0)
        late = time.time() - STUCK_SECONDS
        for node in self._mirror.nodes.values():
            late_one = node.state is NodeState.DELETING and node.state_time < late
            if late_one and node.provider in stuck:
                stuck[node.provider] += 1
        return stuck

    def _terminating(self) -> Mapping[str, int]:
        return {
            name: self._providers[name].count_terminating()
            for name in self._provider_names()
            if name in self._providers and self._providers[name].health.in_sync
        }


async def _watch_loop() -> None:
    """Look how late we are woken, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        telemetry.loop_lagged(loop.time() - due)
