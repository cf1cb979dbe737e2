"""Takes the launcher's snapshot: looked up in memory when something asks, never before.

Nothing here asks ZooKeeper or a backend, and nothing changes anything.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Protocol

from nodepool_k8s.config.settings import Pool, Provider, Settings, TopLabel
from nodepool_k8s.launcher.failures import FailureHistory
from nodepool_k8s.launcher.fulfil import Fulfilment
from nodepool_k8s.launcher.launch_context import FailureObserver
from nodepool_k8s.launcher.pool_queue import PoolQueue
from nodepool_k8s.launcher.provider_upkeep import Stuck
from nodepool_k8s.launcher.providers import Providers
from nodepool_k8s.model import NodeRequest, NodeState, Resources
from nodepool_k8s.redaction import redact_text
from nodepool_k8s.snapshot import (
    LauncherSnapshot,
    LaunchingNode,
    PoolSnapshot,
    ProviderSnapshot,
    RecordCounts,
    ResourceUsage,
    ServedRequest,
    StuckDeletion,
    TenantSnapshot,
    WaitingRequest,
    count_records,
    redact_texts,
)
from nodepool_k8s.znodes.paths import ledger_path, tenant_ledger_path
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.mirror import Mirror

SHOWN = 100
"""Requests listed of those that wait, and of those being served; the rest is counted."""

STUCK_SECONDS = 60.0
"""A node that is being deleted for longer than that is shown as stuck."""


class ServedSession(Protocol):
    """What is served in this ZooKeeper session."""

    @property
    def queues(self) -> Mapping[str, PoolQueue]:
        """The pools' queues, by ``provider/pool``."""

    @property
    def fulfilments(self) -> Mapping[str, Fulfilment]:
        """The requests being served, by id."""

    @property
    def stuck(self) -> Mapping[str, str]:
        """What holds the nodes whose deletion takes too long, by id."""

    @property
    def stuck_deletions(self) -> Iterable[Stuck]:
        """Deletions at the backends that do not end, their nodes' records gone or not."""

    def observe(self, observer: FailureObserver) -> None:
        """Report failed attempts to launch a node to ``observer``."""


class SnapshotBuilder:
    """Takes snapshots of one launcher, for as long as the process runs.

    ``settings`` returns those that hold now; ``stopping`` is set when the launcher ends.
    """

    def __init__(
        self, settings: Callable[[], Settings], providers: Providers, stopping: asyncio.Event
    ) -> None:
        self._settings = settings
        self._stopping = stopping
        self._providers = providers
        self._started = time.time()
        self._failures = FailureHistory()
        self._client: ZooKeeperClient | None = None
        self._mirror: Mirror | None = None
        self._session: ServedSession | None = None

    @contextmanager
    def connected(self, client: ZooKeeperClient) -> Iterator[None]:
        """Show this client's ZooKeeper session inside the context."""
        self._client = client
        try:
            yield
        finally:
            self._client = self._mirror = self._session = None

    def serve(self, mirror: Mirror, session: ServedSession) -> None:
        """Show what the session serves: its records are known, and its pools registered."""
        self._mirror, self._session = mirror, session
        session.observe(self._failures)
        self._failures.follow(mirror)

    @property
    def records(self) -> Mirror | None:
        """ZooKeeper's records; None while they are not known."""
        return self._mirror

    @property
    def labels(self) -> Mapping[str, TopLabel]:
        """The configuration's top-level labels."""
        return self._settings().labels

    # --- the whole ---------------------------------------------------------------------------

    def snapshot(self, shown: int = SHOWN) -> LauncherSnapshot:
        """The launcher now, with at most ``shown`` requests in each list of requests."""
        settings = self._settings()
        queues = list(self._session.queues.values()) if self._session else []
        fulfilments = list(self._session.fulfilments.values()) if self._session else []
        launching = _launching_by_pool(fulfilments)
        taken = LauncherSnapshot(
            taken_at=time.time(),
            started_at=self._started,
            obstacles=self.obstacles(),
            pools=tuple(self._pool(pool, launching[pool.key]) for pool in settings.pools),
            providers=tuple(self._provider(provider) for provider in settings.providers),
            tenants=tuple(
                TenantSnapshot(name, _limited(self._used(tenant_ledger_path(name)), limits))
                for name, limits in settings.tenant_limits.items()
            ),
            waiting_count=sum(queue.waiting_count for queue in queues),
            waiting=tuple(islice(self._waiting(queues), shown)),
            in_flight_count=len(fulfilments),
            in_flight=tuple(_served(each) for each in fulfilments[:shown]),
            failures=tuple(self._failures),
            stuck=tuple(self._stuck()),
        )
        return replace(redact_texts(taken), records=self.record_counts())

    def record_counts(self) -> RecordCounts:
        """How many records there are in ZooKeeper; the part that statsd sends."""
        mirror = self._mirror
        if mirror is None:
            return RecordCounts()
        return count_records(
            mirror.nodes.values(), mirror.requests.values(), mirror.components.values()
        )

    def obstacles(self) -> tuple[str, ...]:
        """Why no request can be served now, a sentence each; empty when they can."""
        if self._stopping.is_set():
            return ("the launcher is being stopped",)
        if self._client is None or not self._client.connected:
            hosts = self._settings().zookeeper.hosts
            return (redact_text(f"there is no connection to ZooKeeper at {hosts}; trying again"),)
        if self._mirror is None:
            return ("the records in ZooKeeper are being read",)
        providers = self._settings().providers
        troubles = [(provider.name, self._trouble(provider)) for provider in providers]
        if all(trouble for _, trouble in troubles):
            return tuple(redact_text(f"provider {name}: {trouble}") for name, trouble in troubles)
        return ()

    # --- pools and providers -----------------------------------------------------------------

    def _pool(self, pool: Pool, launching: int) -> PoolSnapshot:
        queue = self._queue(pool)
        return PoolSnapshot(
            provider=pool.provider,
            name=pool.name,
            priority=pool.priority,
            labels=tuple(sorted(pool.labels)),
            paused=queue.component.paused if queue else None,
            waiting=queue.waiting_count if queue else 0,
            waits_for=queue.waits_for if queue else "",
            launching=launching,
            resources=_usage(self._used(ledger_path(pool.provider, pool.name)), pool.limits),
        )

    def _queue(self, pool: Pool) -> PoolQueue | None:
        return self._session.queues.get(pool.key) if self._session else None

    def _used(self, ledger: str) -> Resources:
        return self._mirror.used(ledger) if self._mirror else Resources()

    def _provider(self, provider: Provider) -> ProviderSnapshot:
        queue = next((self._queue(pool) for pool in provider.pools), None)
        return ProviderSnapshot(
            name=provider.name,
            context=provider.context,
            trouble=self._trouble(provider),
            launches=queue.launch_slots.launching if queue else 0,
            max_concurrency=provider.max_concurrency,
            terminating=self._terminating(provider.name),
        )

    def _terminating(self, provider: str) -> int | None:
        if provider not in self._providers or not self._providers[provider].health.in_sync:
            return None
        return self._providers[provider].count_terminating()

    def _trouble(self, provider: Provider) -> str:
        """Why the provider's backend cannot be used now; empty when it can."""
        if provider.name not in self._providers:
            return "not connected yet"
        health = self._providers[provider.name].health
        if not health.in_sync:
            return self._providers.trouble(provider.name) or "not connected yet"
        if health.out_of_touch_since is None:
            return ""
        seconds = asyncio.get_running_loop().time() - health.out_of_touch_since
        return f"its cluster has not answered for {seconds:.0f} s; trying again"

    # --- requests and nodes ------------------------------------------------------------------

    def _waiting(self, queues: Iterable[PoolQueue]) -> Iterator[WaitingRequest]:
        requests = self._mirror.requests if self._mirror else {}
        for queue in queues:
            for request_id in queue.waiting:
                request = requests.get(request_id)
                if request is not None:
                    yield WaitingRequest(
                        id=request.id,
                        pool=queue.pool.key,
                        requestor=request.requestor,
                        labels=request.node_types,
                        created_at=_created_at(request),
                        waits_for=queue.why_waits(request),
                    )

    def _stuck(self) -> Iterator[StuckDeletion]:
        """Nodes whose deletion takes too long, and what is left at backends without a record."""
        if self._mirror is None or self._session is None:
            return
        held_by, late, shown = self._session.stuck, time.time() - STUCK_SECONDS, set()
        for node in self._mirror.nodes.values():
            if node.id in held_by or (node.state is NodeState.DELETING and node.state_time < late):
                shown.add(node.external_id)
                reason = held_by.get(node.id, "see the log of its launcher")
                yield StuckDeletion(
                    node.external_id, node.provider, node.id, node.state_time, reason
                )
        # A pod's record is gone long before a namespace that something holds.
        for stuck in self._session.stuck_deletions:
            if stuck.external_id not in shown:
                reason = "; ".join(stuck.blockers)
                yield StuckDeletion(stuck.external_id, stuck.provider, None, stuck.since, reason)


def _usage(used: Resources, limits: Mapping[str, int]) -> tuple[ResourceUsage, ...]:
    names = dict.fromkeys([*limits, *used])
    return tuple(ResourceUsage(name, used.amount(name), limits.get(name)) for name in names)


def _limited(used: Resources, limits: Mapping[str, int]) -> tuple[ResourceUsage, ...]:
    # The ledger of a tenant counts only what is limited.
    return tuple(ResourceUsage(name, used.amount(name), limits[name]) for name in limits)


def _launching_by_pool(fulfilments: Iterable[Fulfilment]) -> Counter[str]:
    launching: Counter[str] = Counter()
    for fulfilment in fulfilments:
        launching[fulfilment.pool.key] += sum(
            launch.held.node.state is not NodeState.READY for launch in fulfilment.launches
        )
    return launching


def _served(fulfilment: Fulfilment) -> ServedRequest:
    request = fulfilment.request
    return ServedRequest(
        id=request.id,
        pool=fulfilment.pool.key,
        requestor=request.requestor,
        created_at=_created_at(request),
        nodes=tuple(
            LaunchingNode(
                id=launch.held.node.id,
                label=",".join(launch.held.node.type),
                external_id=launch.held.node.external_id,
                state=launch.held.node.state,
                waits_for=launch.waits_for,
                failure=launch.failure,
            )
            for launch in fulfilment.launches
        ),
    )


def _created_at(request: NodeRequest) -> float:
    return request.created_time or request.state_time
