"""Prometheus: events are counted under the right labels, and the output is well-formed."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nodepool_k8s import telemetry
from nodepool_k8s.config.settings import Pool
from nodepool_k8s.drivers.outcomes import Failure
from nodepool_k8s.errors import LaunchError, SessionLost
from nodepool_k8s.model import MIN_READY, Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.snapshot import (
    LauncherSnapshot,
    PoolSnapshot,
    ProviderSnapshot,
    ResourceUsage,
    StuckDeletion,
    TenantSnapshot,
    count_records,
)
from nodepool_k8s.telemetry.events import verb_and_resource
from tests.support.figures import Readings

OPERATE = Path(__file__).resolve().parents[3] / "docs" / "operate.md"

POOL = Pool("cloud", "main", {})
HERE = {"provider": "cloud", "pool": "main"}


def request(
    state: RequestState = RequestState.FULFILLED, requestor: str = "zuul", created: float | None = 5
) -> NodeRequest:
    return NodeRequest(
        "200-1", state, ("pod",), requestor=requestor, created_time=created, state_time=7.5
    )


def busy() -> LauncherSnapshot:
    return LauncherSnapshot(
        pools=(
            PoolSnapshot(
                "cloud",
                "main",
                paused=True,
                waiting=3,
                launching=2,
                resources=(
                    ResourceUsage("instances", 2000, 10_000),
                    ResourceUsage("cores", 0, 1500),
                    ResourceUsage("ram", 1000, None),
                ),
            ),
            PoolSnapshot("cloud", "unregistered", paused=None),
        ),
        providers=(
            ProviderSnapshot("cloud", trouble="its cluster has not answered", terminating=4),
            ProviderSnapshot("new", trouble="not connected yet", terminating=None),
        ),
        tenants=(TenantSnapshot("t", (ResourceUsage("instances", 1000, 2000),)),),
        stuck=(
            StuckDeletion("main-1", "cloud", "1", 5.0, "a finalizer"),
            StuckDeletion("main-2", "cloud", None, 5.0, "its record is gone"),
            StuckDeletion("x-3", "removed", "3", 5.0, "another launcher's"),
        ),
        records=count_records(
            [
                Node("1", NodeState.READY, ("pod",), provider="cloud"),
                Node("2", NodeState.READY, ("pod", "alias"), provider="cloud"),
                Node("3", NodeState.INIT),
            ],
            [request(RequestState.REQUESTED), request(RequestState.PENDING)],
            [],
        ),
    )


@pytest.fixture
def observed() -> Iterator[None]:
    telemetry.observe(busy)
    yield
    telemetry.forget(busy)


def families() -> dict[str, list[tuple[dict[str, str], float]]]:
    text = telemetry.render().decode()
    return {
        sample.name: [
            (each.labels, each.value) for each in family.samples if each.name == sample.name
        ]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.usefixtures("observed")
def test_what_is_there_shows_when_it_is_asked_for() -> None:
    found = families()
    assert ({"state": "requested"}, 1) in found["nodepool_k8s_requests"]
    assert ({"state": "failed"}, 0) in found["nodepool_k8s_requests"]
    nodes = {"provider": "cloud", "label": "pod", "state": "ready"}
    assert (nodes, 2) in found["nodepool_k8s_nodes"]
    assert found["nodepool_k8s_pool_queued_requests"] == [(HERE, 3)]
    assert found["nodepool_k8s_pool_launching_nodes"] == [(HERE, 2)]
    assert found["nodepool_k8s_pool_paused"] == [(HERE, 1)]
    assert found["nodepool_k8s_pool_quota_used"] == [
        ({**HERE, "resource": "cores"}, 0),
        ({**HERE, "resource": "instances"}, 2),
        ({**HERE, "resource": "ram"}, 1024 * 1024),
    ]
    assert found["nodepool_k8s_pool_quota_limit"] == [
        ({**HERE, "resource": "cores"}, 1.5),
        ({**HERE, "resource": "instances"}, 10),
    ]
    tenant = {"tenant": "t", "resource": "instances"}
    assert found["nodepool_k8s_tenant_quota_used"] == [(tenant, 1)]
    assert found["nodepool_k8s_tenant_quota_limit"] == [(tenant, 2)]
    new = {"provider": "new"}
    assert found["nodepool_k8s_cluster_connected"] == [({"provider": "cloud"}, 0), (new, 0)]
    assert found["nodepool_k8s_stuck_deletions"] == [({"provider": "cloud"}, 1), (new, 0)]
    assert found["nodepool_k8s_terminating_namespaces"] == [({"provider": "cloud"}, 4)]


def test_nothing_is_looked_up_where_there_is_no_session() -> None:
    found = families()
    assert "nodepool_k8s_requests" not in found
    assert "nodepool_k8s_build_info" in found
    assert "process_resident_memory_bytes" in found


@pytest.mark.usefixtures("observed")
def test_another_source_is_not_forgotten_by_mistake() -> None:
    telemetry.forget(LauncherSnapshot)
    assert "nodepool_k8s_requests" in families()


def test_names_follow_the_conventions() -> None:
    for name in documented_and_there()[1]:
        assert re.fullmatch(r"nodepool_k8s_[a-z_]+", name)
        assert not re.search(r"_(ms|milliseconds|mib|mb|count|sum|bucket)$", name)


def documented_and_there() -> tuple[set[str], set[str]]:
    """The metrics that the page describes, and those that the registry has."""
    telemetry.observe(LauncherSnapshot)
    text = telemetry.render().decode()
    telemetry.forget(LauncherSnapshot)
    there = set(re.findall(r"^# TYPE (nodepool_k8s_\w+) ", text, re.MULTILINE))
    rows = re.findall(r"^\| `(nodepool_k8s_\w+)`", OPERATE.read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows))
    return set(rows), there


def test_documented_metrics_are_those_that_exist() -> None:
    documented, there = documented_and_there()
    assert documented == there


def test_every_reason_is_documented() -> None:
    page = OPERATE.read_text()
    assert [failure for failure in Failure if f"`{failure.value}`" not in page] == []


# --- events ------------------------------------------------------------------------------------


def test_a_request_waited_until_its_answer(readings: Readings) -> None:
    telemetry.request_answered(request(), POOL)
    telemetry.request_answered(request(RequestState.FAILED), POOL)
    for outcome in ("fulfilled", "failed"):
        assert readings.grown("request_wait_seconds_sum", outcome=outcome, **HERE) == 2.5


@pytest.mark.parametrize(
    "other",
    [
        request(RequestState.REQUESTED),
        request(RequestState.PENDING),
        request(requestor=MIN_READY),
        request(created=None),
    ],
)
def test_only_answers_to_requestors_are_timed(other: NodeRequest, readings: Readings) -> None:
    telemetry.request_answered(other, POOL)
    for outcome in ("fulfilled", "failed"):
        assert not readings.grown("request_wait_seconds_count", outcome=outcome, **HERE)


def test_a_clock_that_was_set_back_counts_as_no_time(readings: Readings) -> None:
    telemetry.request_answered(request(created=100), POOL)
    assert readings.grown("request_wait_seconds_sum", outcome="fulfilled", **HERE) == 0
    assert readings.grown("request_wait_seconds_count", outcome="fulfilled", **HERE) == 1


def test_nodes_are_reused_or_launched(readings: Readings) -> None:
    both = NodeRequest("200-1", RequestState.FULFILLED, ("pod", "pod"))
    telemetry.nodes_assigned(both, POOL, [True, False])
    for source in ("reused", "launched"):
        assert readings.grown("nodes_assigned_total", label="pod", source=source, **HERE) == 1


def test_a_launch_is_timed_by_step_after_a_failed_attempt(readings: Readings) -> None:
    figures = telemetry.LaunchFigures(request(), POOL, "pod", "0000000001")
    with figures.launching():
        figures.attempt_begins()
        figures.attempt_failed(Failure.IMAGE, "no", {"namespace": 0.01})
        figures.attempt_begins()
        figures.ready({"namespace": 0.25, "ready": 2})
    where = {**HERE, "label": "pod"}
    assert readings.grown("launch_attempts_total", **where) == 2
    assert readings.grown("launch_failures_total", reason="image", **where) == 1
    steps = {"provider": "cloud", "label": "pod"}
    assert readings.grown("launch_seconds_sum", step="namespace", **steps) == 0.25
    assert readings.grown("launch_seconds_sum", step="ready", **steps) == 2
    assert readings.grown("launch_seconds_count", step="total", **steps) == 1


@pytest.mark.parametrize("error", [LaunchError("no"), SessionLost("over"), KeyboardInterrupt()])
def test_how_a_launch_fails_is_passed_on(error: BaseException) -> None:
    figures = telemetry.LaunchFigures(request(), POOL, "pod", "0000000001")
    with pytest.raises(type(error)), figures.launching():
        raise error


@pytest.mark.parametrize(
    ("failure", "result"),
    [
        *(
            (failure, "error.nodepool")
            for failure in Failure
            if failure.value not in ("quota", "session", "source", "api", "refused", "unknown")
        ),
        (Failure.QUOTA, "error.quota"),
        (Failure.SOURCE, "error.unknown"),
        (Failure.API, "error.unknown"),
        (Failure.REFUSED, "error.unknown"),
        (Failure.UNKNOWN, "error.unknown"),
    ],
)
async def test_statsd_counts_failed_launches_under_nodepools_names(
    failure: Failure, result: str, udp: socket.socket
) -> None:
    host, port = udp.getsockname()[:2]
    telemetry.start({"STATSD_HOST": host, "STATSD_PORT": str(port)})
    server = telemetry.statsd_server()
    assert server is not None
    await server.resolve()
    figures = telemetry.LaunchFigures(request(), POOL, "pod", "0000000001")
    with pytest.raises(LaunchError), figures.launching():
        raise LaunchError("no", failure=failure)
    assert f"nodepool.launch.{result}:1|c" in udp.recv(2048).decode().splitlines()
    await telemetry.stop()
    assert telemetry.statsd_server() is None


@pytest.mark.parametrize(
    ("method", "path", "verb", "resource"),
    [
        ("POST", "/api/v1/namespaces", "create", "namespaces"),
        ("GET", "/api/v1/namespaces", "list", "namespaces"),
        ("GET", "/api/v1/namespaces/main-1", "get", "namespaces"),
        ("DELETE", "/api/v1/namespaces/main-1", "delete", "namespaces"),
        ("GET", "/api/v1/pods", "list", "pods"),
        ("POST", "/api/v1/namespaces/main-1/pods", "create", "pods"),
        ("PATCH", "/api/v1/namespaces/main-1/pods/p", "patch", "pods"),
        ("DELETE", "/api/v1/namespaces/main-1/pods", "deletecollection", "pods"),
        ("POST", "/api/v1/namespaces/m/serviceaccounts/w/token", "create", "serviceaccounts/token"),
        (
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/namespaces/m/rolebindings",
            "create",
            "rolebindings",
        ),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/x", "get", "clusterroles"),
        (
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "create",
            "selfsubjectaccessreviews",
        ),
        ("GET", "/version", "get", "other"),
        ("GET", "/api", "get", "other"),
        ("OPTIONS", "/api/v1/pods", "other", "pods"),
    ],
)
def test_calls_are_told_apart_by_resource_and_never_by_name(
    method: str, path: str, verb: str, resource: str
) -> None:
    assert verb_and_resource(method, path) == (verb, resource)


@pytest.mark.parametrize(
    ("status", "code"), [(200, "2xx"), (409, "4xx"), (503, "5xx"), (None, "error")]
)
def test_calls_are_counted_by_class_of_answer(
    status: int | None, code: str, readings: Readings
) -> None:
    telemetry.api_called("cloud", "GET", "/api/v1/namespaces/x", status, 0.5)
    labels = {"provider": "cloud", "verb": "get", "resource": "namespaces", "code": code}
    assert readings.grown("api_request_seconds_sum", **labels) == 0.5


def test_what_else_is_counted(readings: Readings) -> None:
    cloud = {"provider": "cloud"}
    telemetry.claim_conflicted(POOL)
    telemetry.node_deleted("cloud", 1.5)
    telemetry.leak_deleted("cloud")
    telemetry.relisted("cloud", "/api/v1/pods")
    telemetry.watch_opened("cloud", "/api/v1/pods")
    zookeeper = telemetry.ZooKeeperFigures()
    zookeeper.answered("transaction", 0.25)
    zookeeper.session_lost()
    telemetry.loop_lagged(0.25)
    assert readings.grown("claim_conflicts_total", **HERE) == 1
    assert readings.grown("node_deletion_seconds_sum", **cloud) == 1.5
    assert readings.grown("leaked_namespaces_deleted_total", **cloud) == 1
    assert readings.grown("watch_relists_total", resource="pods", **cloud) == 1
    assert readings.grown("watches_total", resource="pods", **cloud) == 1
    assert readings.grown("zookeeper_operation_seconds_sum", operation="transaction") == 0.25
    assert readings.grown("zookeeper_sessions_lost_total") == 1
    assert readings.grown("event_loop_lag_seconds_sum") == 0.25
