"""Every Prometheus metric there is, and how they are written out.

Times are in seconds, sizes in bytes. A label's values are always from a closed or a
configured set: never an id, a requestor or free text. What is counted as it happens is an
object here; everything else comes from a snapshot, taken when the metrics are fetched.
"""

from __future__ import annotations

import platform
from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from nodepool_k8s.snapshot import (
    LauncherSnapshot,
    PoolSnapshot,
    RecordCounts,
    ResourceUsage,
    TenantSnapshot,
)

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

PREFIX: Final = "nodepool_k8s"

# One more series for each counter, with the time of its first use: not needed.
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
    "From the creation of a request until it is fulfilled or failed.",
    "provider",
    "pool",
    "outcome",
    buckets=WAITS,
)
CLAIM_CONFLICTS = _counter(
    "claim_conflicts_total",
    "Claims lost to another launcher, or whose request had changed.",
    "provider",
    "pool",
)
NODES_ASSIGNED = _counter(
    "nodes_assigned_total",
    "Nodes handed over, by whether they were ready before (reused) or launched for the request.",
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
    "Namespaces deleted because no node record named them.",
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
    "Full listings, because a watch was new or could not be resumed.",
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


class _SnapshotCollector(Collector):
    """Turns the launcher's snapshot into gauges when the metrics are fetched."""

    take: Callable[[], LauncherSnapshot] | None = None

    def describe(self) -> list[Metric]:
        """Name the gauges without taking a snapshot."""
        return list(_gauges(LauncherSnapshot()))

    def collect(self) -> Iterator[Metric]:
        """Take a snapshot; nothing while no ZooKeeper session is served."""
        if self.take is not None:
            yield from _gauges(self.take())


def _gauges(snapshot: LauncherSnapshot) -> Iterator[Metric]:
    yield _requests(snapshot.records)
    yield _nodes(snapshot.records)
    yield from _pools(snapshot.pools)
    yield from _tenants(snapshot.tenants)
    yield from _providers(snapshot)


def _requests(records: RecordCounts) -> Metric:
    requests = _family("requests", "Node requests in ZooKeeper, of all launchers.", "state")
    counts = records.requests_by_state()
    for state in RequestState:
        requests.add_metric((state.value,), counts.get(state, 0))
    return requests


def _nodes(records: RecordCounts) -> Metric:
    nodes = _family("nodes", "Nodes in ZooKeeper, of all launchers.", "provider", "label", "state")
    counts: Count[tuple[str, str, str]] = Count()
    for group, count in records.nodes.items():
        # A node with several labels counts under its first.
        label = group.labels[0] if group.labels else ""
        counts[group.provider, label, group.state.value] += count
    for key, count in counts.items():
        nodes.add_metric(key, count)
    return nodes


def _pools(pools: Iterable[PoolSnapshot]) -> Iterator[Metric]:
    where = ("provider", "pool")
    queued = _family("pool_queued_requests", "Requests that wait for a pool.", *where)
    launching = _family("pool_launching_nodes", "Nodes of a pool being launched.", *where)
    paused = _family("pool_paused", "Whether a pool is registered as paused.", *where)
    used = _family("pool_quota_used", "A pool's usage; sizes in bytes.", *where, "resource")
    limit = _family("pool_quota_limit", "A pool's limits; sizes in bytes.", *where, "resource")
    for pool in pools:
        if pool.paused is None:
            continue  # Not registered in this session.
        key = (pool.provider, pool.name)
        queued.add_metric(key, pool.waiting)
        launching.add_metric(key, pool.launching)
        paused.add_metric(key, pool.paused)
        _add_usage(used, limit, key, pool.resources)
    return iter((queued, launching, paused, used, limit))


def _tenants(tenants: Iterable[TenantSnapshot]) -> Iterator[Metric]:
    where = ("tenant", "resource")
    used = _family("tenant_quota_used", "Usage of a tenant with limits; sizes in bytes.", *where)
    limit = _family("tenant_quota_limit", "A tenant's limits; sizes in bytes.", *where)
    for tenant in tenants:
        _add_usage(used, limit, (tenant.name,), tenant.resources)
    return iter((used, limit))


def _providers(snapshot: LauncherSnapshot) -> Iterator[Metric]:
    connected = _family(
        "cluster_connected", "Whether the watches of a provider's cluster work.", "provider"
    )
    stuck = _family(
        "stuck_deletions", "Nodes that are being deleted for more than a minute.", "provider"
    )
    terminating = _family("terminating_namespaces", "Namespaces being deleted.", "provider")
    late = Count(each.provider for each in snapshot.stuck if each.node_id is not None)
    for provider in snapshot.providers:
        connected.add_metric((provider.name,), provider.in_touch)
        stuck.add_metric((provider.name,), late[provider.name])
        if provider.terminating is not None:
            terminating.add_metric((provider.name,), provider.terminating)
    return iter((connected, stuck, terminating))


def _add_usage(
    used: GaugeMetricFamily,
    limit: GaugeMetricFamily,
    key: tuple[str, ...],
    resources: Iterable[ResourceUsage],
) -> None:
    for each in sorted(resources, key=lambda each: each.name):
        used.add_metric((*key, each.name), _units(each.name, each.used))
        if each.limit is not None:
            limit.add_metric((*key, each.name), _units(each.name, each.limit))


def _units(name: str, milli: int) -> float:
    return milli * UNITS.get(name, 1) / MILLI


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)


_COLLECTOR = _SnapshotCollector()
REGISTRY.register(_COLLECTOR)


def observe(take: Callable[[], LauncherSnapshot]) -> None:
    """Call ``take`` for a snapshot whenever the metrics are fetched, on the caller's thread."""
    _COLLECTOR.take = take


def forget(take: Callable[[], LauncherSnapshot]) -> None:
    """Stop calling ``take``, unless something else is called by now."""
    if _COLLECTOR.take == take:
        _COLLECTOR.take = None


def render() -> bytes:
    """All metrics in Prometheus' text format, of type ``CONTENT_TYPE``."""
    return generate_latest(REGISTRY)
