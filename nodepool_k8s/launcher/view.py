"""What the launcher shows of itself: whether it can work, what it does, what went wrong.

Everything is looked up in memory when somebody asks; nothing here asks ZooKeeper or a
cluster, and nothing here changes anything. No secrets: what is shown of records is named
one by one, and ``status`` removes what looks like one from what others wrote.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from nodepool_k8s import __version__, presentation
from nodepool_k8s.config.settings import Pool, Provider, Settings, TopLabel
from nodepool_k8s.launcher.fulfil import Fulfilment
from nodepool_k8s.launcher.launch_context import FailureObserver
from nodepool_k8s.launcher.pool_queue import PoolQueue
from nodepool_k8s.launcher.provider_upkeep import Stuck
from nodepool_k8s.launcher.providers import Providers
from nodepool_k8s.model import (
    Node,
    NodeRequest,
    NodeState,
    RequestState,
    Resources,
    whole_units,
)
from nodepool_k8s.redaction import redact_record
from nodepool_k8s.znodes.paths import ledger_path
from nodepool_k8s.znodes.requests import refusal_reasons
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.mirror import Kind, Mirror

Row = dict[str, Any]

FAILURES = 50
"""How many failures are remembered."""

SHOWN = 100
"""Requests that are shown of those that wait, and of those being served; the rest is counted."""

STUCK_SECONDS = 60.0
"""A node that is being deleted for longer than that is shown as stuck."""


class Scope(Protocol):
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
        """Namespaces that stay Terminating, their nodes' records gone or not."""

    def observe(self, observer: FailureObserver) -> None:
        """Tell this one why launches fail."""


class View:
    """The launcher as the web server sees it; a ``web.source.Source``.

    Lives as long as the daemon. ``settings`` gives those that hold now; ``stopping`` is
    set when the daemon ends.
    """

    def __init__(
        self, settings: Callable[[], Settings], providers: Providers, stopping: asyncio.Event
    ) -> None:
        self._settings = settings
        self._stopping = stopping
        self._providers = providers
        self._started = time.time()
        self._client: ZooKeeperClient | None = None
        self._mirror: Mirror | None = None
        self._scope: Scope | None = None
        self._failures: deque[Row] = deque(maxlen=FAILURES)
        self._reasons: dict[str, int] = {}
        """How many reasons of a request's refusal were remembered already, by its id."""

    @contextmanager
    def session(self, client: ZooKeeperClient) -> Iterator[None]:
        """A ZooKeeper session, for as long as it is served."""
        self._client = client
        try:
            yield
        finally:
            self._client = self._mirror = self._scope = None
            self._reasons.clear()

    def serve(self, mirror: Mirror, scope: Scope) -> None:
        """The session's records are known, and its pools registered."""
        self._mirror, self._scope = mirror, scope
        scope.observe(self)
        mirror.listen(self._on_change)
        for request_id in mirror.requests:
            self._on_change(Kind.REQUEST, request_id)

    # --- what failed -------------------------------------------------------------------------

    def _on_change(self, kind: Kind, name: str) -> None:
        """Remember why requests were declined: they are gone before anybody looks."""
        if kind is not Kind.REQUEST or self._mirror is None:
            return
        request = self._mirror.requests.get(name)
        if request is None:
            self._reasons.pop(name, None)
            return
        reasons = refusal_reasons(request)
        known = self._reasons.get(name, 0)
        if len(reasons) > known:
            self._reasons[name] = len(reasons)
        for reason in reasons[known:]:
            self._remember(request, request.node_types, None, reason)

    def attempt_failed(self, request: NodeRequest, node: Node, reason: str) -> None:
        """An attempt to launch a node failed."""
        self._remember(request, node.type, node.id, reason)

    def _remember(
        self, request: NodeRequest, labels: tuple[str, ...], node_id: str | None, reason: str
    ) -> None:
        self._failures.append(
            {
                "at": time.time(),
                "request": request.id,
                "node": node_id,
                "labels": list(labels),
                "reason": reason,
            }
        )

    # --- for the web server ------------------------------------------------------------------

    @property
    def records(self) -> Mirror | None:
        """ZooKeeper's records; None while they are not known."""
        return self._mirror

    @property
    def labels(self) -> Mapping[str, TopLabel]:
        """The configuration's top-level labels."""
        return self._settings().labels

    def obstacles(self) -> list[str]:
        """Why no request can be served now, a sentence each; empty when they can."""
        if self._stopping.is_set():
            return ["the launcher is being stopped"]
        if self._client is None or not self._client.connected:
            hosts = self._settings().zookeeper.hosts
            return [f"there is no connection to ZooKeeper at {hosts}; trying again"]
        if self._mirror is None:
            return ["the records in ZooKeeper are being read"]
        troubles = [
            (provider.name, self._trouble(provider)) for provider in self._settings().providers
        ]
        if all(trouble for _, trouble in troubles):
            return [f"provider {name}: {trouble}" for name, trouble in troubles]
        return []

    def status(self, now: float) -> dict[str, Any]:
        """What the launcher is doing, as JSON values.

        ``waiting`` and ``in_flight`` have the first hundred; ``waiting_count`` and
        ``in_flight_count`` are all. Amounts are in whole units, a limit of None is none.
        """
        waiting, in_flight = self._waiting(), self._in_flight()
        shown = {
            "version": __version__,
            "uptime": presentation.age(self._started, now),
            "obstacles": self.obstacles(),
            "pools": [self._pool(pool) for pool in self._settings().pools],
            "providers": [self._provider(provider) for provider in self._settings().providers],
            "nodes": self._states("nodes", NodeState),
            "requests": self._states("requests", RequestState),
            "waiting_count": len(waiting),
            "waiting": [_waiting_row(*each, now) for each in waiting[:SHOWN]],
            "in_flight_count": len(in_flight),
            "in_flight": [_served_row(each, now) for each in in_flight[:SHOWN]],
            "failures": [_failure_row(failure, now) for failure in reversed(self._failures)],
            "stuck": self._stuck(now),
        }
        return redact_record(shown)

    # --- pools and providers -----------------------------------------------------------------

    def _pool(self, pool: Pool) -> Row:
        queue = self._queue(pool)
        return {
            "pool": pool.key,
            "priority": pool.priority,
            "labels": sorted(pool.labels),
            "paused": queue.component.paused if queue else None,
            "waiting": queue.waiting_count if queue else 0,
            "waits_for": queue.waits_for if queue else "",
            "resources": self._resources(pool),
        }

    def _queue(self, pool: Pool) -> PoolQueue | None:
        return self._scope.queues.get(pool.key) if self._scope else None

    def _resources(self, pool: Pool) -> dict[str, Row]:
        used = self._used(pool)
        names = dict.fromkeys([*pool.limits, *used])
        return {
            name: {
                "used": whole_units(used.amount(name)),
                "limit": whole_units(pool.limits[name]) if name in pool.limits else None,
            }
            for name in names
        }

    def _used(self, pool: Pool) -> Resources:
        if self._mirror is None:
            return Resources()
        path = ledger_path(pool.provider, pool.name)
        usage, ledger = self._mirror.usage(path), self._mirror.ledgers.get(path)
        return (ledger.claimed if ledger else usage.claimed) + usage.foreign

    def _provider(self, provider: Provider) -> Row:
        trouble = self._trouble(provider)
        queue = next((self._queue(pool) for pool in provider.pools), None)
        return {
            "provider": provider.name,
            "context": provider.context,
            "in_touch": not trouble,
            "trouble": trouble,
            "launches": queue.launch_slots.launching if queue else 0,
            "max_concurrency": provider.max_concurrency,
        }

    def _trouble(self, provider: Provider) -> str:
        """Why the provider's cluster cannot be used now; empty when it can."""
        if provider.name not in self._providers:
            return "not connected yet"
        health = self._providers[provider.name].health
        if not health.in_sync:
            return self._providers.trouble(provider.name) or "not connected yet"
        since = health.out_of_touch_since
        if since is None:
            return ""
        seconds = asyncio.get_running_loop().time() - since
        return f"its cluster has not answered for {seconds:.0f} s; trying again"

    # --- requests and nodes ------------------------------------------------------------------

    def _states(self, kind: str, states: type[NodeState] | type[RequestState]) -> dict[str, int]:
        """How many there are in which state, in the order in which they pass through them."""
        records = getattr(self._mirror, kind).values() if self._mirror else ()
        counts = Counter(record.state for record in records)
        return {state.value: counts[state] for state in states if counts[state]}

    def _waiting(self) -> list[tuple[PoolQueue, NodeRequest]]:
        if self._scope is None or self._mirror is None:
            return []
        return [
            (queue, request)
            for queue in self._scope.queues.values()
            for request_id in queue.waiting
            if (request := self._mirror.requests.get(request_id)) is not None
        ]

    def _in_flight(self) -> list[Fulfilment]:
        return list(self._scope.fulfilments.values()) if self._scope else []

    def _stuck(self, now: float) -> list[Row]:
        """Namespaces that do not go, and nodes whose deletion takes long."""
        if self._mirror is None or self._scope is None:
            return []
        held_by = self._scope.stuck
        rows = [
            {
                "namespace": node.external_id,
                "provider": node.provider,
                "node": node.id,
                "age": presentation.age(node.state_time, now),
                "reason": held_by.get(node.id, "its launcher's log says what"),
            }
            for node in self._mirror.nodes.values()
            if node.id in held_by
            or (node.state is NodeState.DELETING and now - node.state_time > STUCK_SECONDS)
        ]
        known = {row["namespace"] for row in rows}
        # A pod's record is gone long before a namespace that something holds.
        rows += [
            {
                "namespace": stuck.external_id,
                "provider": stuck.provider,
                "node": None,
                "age": presentation.age(stuck.since, now),
                "reason": "; ".join(stuck.blockers),
            }
            for stuck in self._scope.stuck_deletions
            if stuck.external_id not in known
        ]
        return rows


def _waiting_row(queue: PoolQueue, request: NodeRequest, now: float) -> Row:
    return {
        "request": request.id,
        "pool": queue.pool.key,
        "requestor": request.requestor,
        "labels": list(request.node_types),
        "age": presentation.age(request.created_time or request.state_time, now),
        "waits_for": queue.why_waits(request),
    }


def _served_row(fulfilment: Fulfilment, now: float) -> Row:
    request = fulfilment.request
    return {
        "request": request.id,
        "pool": fulfilment.pool.key,
        "requestor": request.requestor,
        "age": presentation.age(request.created_time or request.state_time, now),
        "nodes": [
            {
                "node": launch.held.node.id,
                "label": ",".join(launch.held.node.type),
                "namespace": launch.held.node.external_id,
                "state": launch.held.node.state.value,
                "waits_for": launch.waits_for,
                "failure": launch.failure,
            }
            for launch in fulfilment.launches
        ],
    }


def _failure_row(failure: Row, now: float) -> Row:
    return {**failure, "age": presentation.age(failure["at"], now)}
