"""Every Prometheus metric there is, and how they are written out.

Times are in seconds, sizes in bytes. A label's values are always from a closed or a
configured set: never an id, a requestor or free text. What is counted as it happens
stands here as an object; what is looked up when somebody asks comes from ``state``.
"""

from __future__ import annotations

import platform
from collections import Counter as Count
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nodepool_k8s import __version__
from nodepool_k8s.model import MILLI, RAM, STORAGE, RequestState
from nodepool_k8s.telemetry.state import Source, State, nodes_by

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

PREFIX: Final = "nodepool_k8s"

# A series a counter more, which says when it was first used: nobody asks.
disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

WAITS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
LAUNCHES = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
DELETIONS = (0.5, 1, 2, 3, 5, 7.5, 10, 20, 30, 60, 120, 300, 900)
CALLS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
OPERATIONS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
LAGS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, namespace=PREFIX, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, namespace=PREFIX, registry=REGISTRY)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, text, labels, namespace=PREFIX, registry=REGISTRY, buckets=buckets)


# --- requests and nodes ---------------------------------------------------------------------

REQUEST_WAIT = _histogram(
    "request_wait_seconds",
    "From the creation of a request to its answer.",
    "provider",
    "pool",
    "outcome",
    buckets=WAITS,
)
CLAIM_CONFLICTS = _counter(
    "claim_conflicts_total",
    "Claims that somebody else was ahead of, or whose request had changed.",
    "provider",
    "pool",
)
NODES_ASSIGNED = _counter(
    "nodes_assigned_total",
    "Nodes handed over, by whether they were ready before (reused) or were launched for it.",
    "provider",
    "pool",
    "label",
    "source",
)
LAUNCH = _histogram(
    "launch_seconds",
    "Launches that succeeded: what each step of the last attempt took, and the total.",
    "provider",
    "label",
    "step",
    buckets=LAUNCHES,
)
LAUNCH_ATTEMPTS = _counter(
    "launch_attempts_total", "Attempts to launch a node.", "provider", "pool", "label"
)
LAUNCH_FAILURES = _counter(
    "launch_failures_total",
    "Attempts to launch a node that failed.",
    "provider",
    "pool",
    "label",
    "reason",
)
DELETION = _histogram(
    "node_deletion_seconds",
    "From the beginning of a node's deletion until its record and its quota are free.",
    "provider",
    buckets=DELETIONS,
)
LEAKED = _counter(
    "leaked_namespaces_deleted_total",
    "Namespaces deleted that no node's record named.",
    "provider",
)

# --- the servers ------------------------------------------------------------------------------

API_REQUEST = _histogram(
    "api_request_seconds",
    "Calls to the API server. code: class of the HTTP status, or error for no answer.",
    "provider",
    "verb",
    "resource",
    "code",
    buckets=CALLS,
)
WATCHES = _counter("watches_total", "Watches opened.", "provider", "resource")
RELISTS = _counter(
    "watch_relists_total",
    "Listings of everything, as a watch could not be resumed or there was none yet.",
    "provider",
    "resource",
)
ZOOKEEPER = _histogram(
    "zookeeper_operation_seconds",
    "Round trips to ZooKeeper, those that failed too.",
    "operation",
    buckets=OPERATIONS,
)
ZOOKEEPER_CONNECTED = _gauge("zookeeper_connected", "Whether there is a connection to ZooKeeper.")
ZOOKEEPER_LOST = _counter(
    "zookeeper_sessions_lost_total", "ZooKeeper sessions that ended while the launcher ran."
)

# --- the process ------------------------------------------------------------------------------

LOOP_LAG = _histogram(
    "event_loop_lag_seconds",
    "How late the event loop was to wake a timer; looked at every two seconds.",
    buckets=LAGS,
)
BUILD_INFO = _gauge("build_info", "What runs; always 1.", "version", "python")
BUILD_INFO.labels(__version__, platform.python_version()).set(1)


# --- what is looked up ------------------------------------------------------------------------

UNITS: Final[Mapping[str, int]] = {RAM: 1024 * 1024, STORAGE: 1_000_000}
"""Bytes in a unit, for what Nodepool counts in MiB and MB."""


class _StateCollector(Collector):
    """Turns the source's state into gauges when the metrics are fetched."""

    source: Source | None = None

    def describe(self) -> list[Metric]:
        """Name them without asking anybody."""
        return list(_gauges(State()))

    def collect(self) -> Iterator[Metric]:
        """Look everything up; nothing where there is no session to look at."""
        if self.source is not None:
            yield from _gauges(self.source.state())


def _gauges(state: State) -> Iterator[Metric]:
    yield _requests(state)
    yield _nodes(state)
    yield from _pools(state)
    yield from _tenants(state)
    yield _by_provider(
        "cluster_connected", "Whether the watches of a provider's cluster work.", state.connected
    )
    yield _by_provider(
        "stuck_deletions", "Nodes that are being deleted for more than a minute.", state.stuck
    )
    yield _by_provider(
        "terminating_namespaces", "Namespaces that are on their way out.", state.terminating
    )


def _requests(state: State) -> Metric:
    requests = _family("requests", "Node requests in ZooKeeper, everybody's.", "state")
    counts = Count(request.state for request in state.requests)
    for kind in RequestState:
        requests.add_metric((kind.value,), counts[kind])
    return requests


def _nodes(state: State) -> Metric:
    nodes = _family("nodes", "Nodes in ZooKeeper, everybody's.", "provider", "label", "state")
    for key, count in nodes_by(state.nodes).items():
        nodes.add_metric(key, count)
    return nodes


def _pools(state: State) -> Iterator[Metric]:
    where = ("provider", "pool")
    queued = _family("pool_queued_requests", "Requests that wait for a pool.", *where)
    launching = _family("pool_launching_nodes", "Nodes of a pool being launched.", *where)
    paused = _family("pool_paused", "Whether a pool is shown as paused.", *where)
    used = _family(
        "pool_quota_used", "What a pool's nodes count; sizes in bytes.", *where, "resource"
    )
    limit = _family("pool_quota_limit", "A pool's limits; sizes in bytes.", *where, "resource")
    for pool in state.pools:
        key = (pool.provider, pool.name)
        queued.add_metric(key, pool.queued)
        launching.add_metric(key, pool.launching)
        paused.add_metric(key, pool.paused)
        _add_amounts(used, key, pool.used, also=pool.limits)
        _add_amounts(limit, key, pool.limits)
    return iter((queued, launching, paused, used, limit))


def _tenants(state: State) -> Iterator[Metric]:
    where = ("tenant", "resource")
    used = _family("tenant_quota_used", "What a tenant with limits has; sizes in bytes.", *where)
    limit = _family("tenant_quota_limit", "A tenant's limits; sizes in bytes.", *where)
    for tenant in state.tenants:
        # Only what is limited: nothing else is kept count of by tenant.
        for name in tenant.limits:
            used.add_metric((tenant.name, name), _units(name, tenant.used.get(name, 0)))
        _add_amounts(limit, (tenant.name,), tenant.limits)
    return iter((used, limit))


def _by_provider(name: str, text: str, amounts: Mapping[str, int]) -> Metric:
    family = _family(name, text, "provider")
    for provider, amount in amounts.items():
        family.add_metric((provider,), amount)
    return family


def _add_amounts(
    family: GaugeMetricFamily,
    key: tuple[str, ...],
    amounts: Mapping[str, int],
    also: Mapping[str, int] | None = None,
) -> None:
    for name in sorted({*amounts, *(also or ())}):
        family.add_metric((*key, name), _units(name, amounts.get(name, 0)))


def _units(name: str, milli: int) -> float:
    return milli * UNITS.get(name, 1) / MILLI


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)


_COLLECTOR = _StateCollector()
REGISTRY.register(_COLLECTOR)


def observe(source: Source | None) -> None:
    """Look things up there from now on; None: there is nothing to look at."""
    _COLLECTOR.source = source


def forget(source: Source) -> None:
    """Look nothing up there any more."""
    if _COLLECTOR.source is source:
        _COLLECTOR.source = None


def render() -> bytes:
    """All metrics in Prometheus' text format, of type ``CONTENT_TYPE``."""
    return generate_latest(REGISTRY)
