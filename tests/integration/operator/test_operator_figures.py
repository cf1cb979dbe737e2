"""Figures of a launcher at work: Prometheus, statsd under Nodepool's names, and traces."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from harness.requestor import zuul_request
from kazoo.client import KazooClient
from kazoo.recipe.lock import Lock
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_strictly
from prometheus_client.parser import text_string_to_metric_families

from nodepool_k8s import telemetry
from nodepool_k8s.launcher import metrics_reports
from nodepool_k8s.telemetry.metrics import REGISTRY
from tests.support.admin import DEPLOYMENT, Admin, waiting
from tests.support.figures import Readings
from tests.support.launchers import Launchers
from tests.support.otlp import Collector, attributes
from tests.support.site import Options, SiteMaker, manual_label, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0x00F067AA0BA902B7


@pytest.fixture
def readings() -> Readings:
    return Readings()


class StatsdServer:
    """Takes whatever lines arrive."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.lines: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        return {"STATSD_HOST": "127.0.0.1", "STATSD_PORT": str(self.socket.getsockname()[1])}

    def take(self) -> list[str]:
        """All lines that arrived until now."""
        while True:
            try:
                self.lines += self.socket.recv(65535).decode().splitlines()
            except BlockingIOError:
                return self.lines

    async def arrived(self, line: str) -> None:
        await eventually(lambda: line in self.take(), f"{line} among {self.lines}")

    async def counted(self, key: str) -> None:
        """Wait until a timer and a counter of that name arrived."""

        def check() -> bool:
            lines = self.take()
            timed = any(line.startswith(f"{key}:") and line.endswith("|ms") for line in lines)
            return timed and f"{key}:1|c" in lines

        await eventually(check, f"{key} counted and timed")


@pytest.fixture
def statsd(monkeypatch: pytest.MonkeyPatch) -> Iterator[StatsdServer]:
    """A statsd server that every launcher of the test is told of."""
    server = StatsdServer()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(metrics_reports, "SEND_SECONDS", 0.2)
    yield server
    server.socket.close()


# --- Prometheus ---------------------------------------------------------------------------------


async def test_what_a_live_launcher_renders_passes_the_format_checks(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), namespace_label(), pool={"max-servers": 5}))
    requests = [await zuul.submit(label) for label in ("pod", "namespace", "pod")]
    await zuul.use_and_return(requests[0])
    for request_id in requests[1:]:
        await zuul.answered(request_id)
    text = telemetry.render().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["nodepool_k8s_launch_seconds"].type == "histogram"
    assert families["nodepool_k8s_nodes_assigned"].type == "counter"
    assert families["nodepool_k8s_pool_quota_used"].type == "gauge"
    strict = openmetrics.generate_latest(REGISTRY).decode()  # type: ignore[no-untyped-call]
    assert list(parse_strictly(strict))  # type: ignore[no-untyped-call]
    promtool = shutil.which("promtool")
    if promtool is not None:
        checked = await asyncio.to_thread(
            subprocess.run,
            [promtool, "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


async def test_the_web_server_has_the_metrics_in_prometheus_format(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    launcher = await launchers.start(make_site(pod_label()))
    await zuul.answered(await zuul.submit("pod"))
    web = launcher.launcher.web
    assert web is not None
    host, port = await eventually(lambda: web.address, "the web server listens")
    url = f"http://{host}:{port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == telemetry.CONTENT_TYPE
        text = await response.text()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"nodepool_k8s_requests", "nodepool_k8s_launch_seconds"} <= names
    assert f'pool="{make_site.pool}"' in text


async def test_requests_launches_and_deletions_are_counted_and_timed(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, readings: Readings
) -> None:
    await launchers.start(make_site(pod_label()))
    here = {"provider": "local", "pool": make_site.pool}
    await zuul.use_and_return(await zuul.submit("pod"))
    await eventually(lambda: readings.grown("node_deletion_seconds_count", provider="local") == 1)
    assert readings.grown("request_wait_seconds_count", outcome="fulfilled", **here) == 1
    assert 0 < readings.grown("request_wait_seconds_sum", outcome="fulfilled", **here) < 60
    assert readings.grown("nodes_assigned_total", label="pod", source="launched", **here) == 1
    assert readings.grown("launch_attempts_total", label="pod", **here) == 1
    steps = {
        step: readings.grown("launch_seconds_sum", provider="local", label="pod", step=step)
        for step in ("namespace", "objects", "ready", "total")
    }
    assert all(seconds > 0 for seconds in steps.values())
    total = steps.pop("total")
    assert total == pytest.approx(sum(steps.values()), rel=0.2, abs=0.05)


async def test_the_servers_latencies_are_shown_by_operation(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, readings: Readings
) -> None:
    await launchers.start(make_site(pod_label()))
    await zuul.use_and_return(await zuul.submit("pod"))
    local = {"provider": "local"}
    calls = [("create", "namespaces"), ("create", "pods"), ("create", "serviceaccounts/token")]
    for verb, resource in calls:
        labels = {**local, "verb": verb, "resource": resource, "code": "2xx"}
        assert readings.grown("api_request_seconds_count", **labels) >= 1, labels
    for resource in ("namespaces", "pods"):
        assert readings.grown("watches_total", resource=resource, **local) >= 1
        assert readings.grown("watch_relists_total", resource=resource, **local) == 1
    for operation in ("transaction", "create", "get"):
        assert readings.grown("zookeeper_operation_seconds_count", operation=operation) >= 1
    assert readings.now("zookeeper_connected") == 1


async def test_a_lost_zookeeper_session_is_counted(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, readings: Readings
) -> None:
    launcher = await launchers.start(make_site(pod_label()))
    # As somebody can who has its session's id and password.
    twin = KazooClient(hosts=zuul.hosts, client_id=launcher.kazoo.client_id)
    await asyncio.to_thread(twin.start)
    await asyncio.to_thread(twin.stop)
    await asyncio.to_thread(twin.close)
    await eventually(lambda: readings.grown("zookeeper_sessions_lost_total") == 1)


async def test_metrics_of_a_full_pool_show_quota_queue_and_pause(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, readings: Readings
) -> None:
    limits: Options = {"max-servers": 1, "max-ram": 4096}
    await launchers.start(make_site(pod_label(memory=512), pool=limits))
    here = {"provider": "local", "pool": make_site.pool}
    first = await zuul.submit("pod")
    await zuul.answered(first)
    second = await zuul.submit("pod")
    await eventually(lambda: readings.now("pool_paused", **here) == 1, "the pool is paused")
    assert readings.now("pool_queued_requests", **here) == 1
    assert readings.now("pool_launching_nodes", **here) == 0
    assert readings.now("pool_quota_used", resource="instances", **here) == 1
    assert readings.now("pool_quota_limit", resource="instances", **here) == 1
    assert readings.now("pool_quota_used", resource="ram", **here) == 512 * 1024**2
    assert readings.now("pool_quota_limit", resource="ram", **here) == 4096 * 1024**2
    assert readings.now("requests", state="requested") == 1
    assert readings.now("nodes", provider="local", label="pod", state="ready") == 1
    assert readings.now("cluster_connected", provider="local") == 1
    assert readings.now("stuck_deletions", provider="local") == 0
    await zuul.cancel(second)
    await eventually(lambda: readings.now("pool_paused", **here) == 0, "not paused any more")


async def test_a_tenant_with_limits_shows_what_it_uses(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, readings: Readings
) -> None:
    limited = {"tenant-resource-limits": [{"tenant-name": "tenant-one", "max-servers": 3}]}
    await launchers.start(make_site(namespace_label(), top=limited))
    await zuul.answered(await zuul.submit("namespace"))
    tenant = {"tenant": "tenant-one", "resource": "instances"}
    assert readings.now("tenant_quota_limit", **tenant) == 3
    assert readings.now("tenant_quota_used", **tenant) == 1


async def test_metrics_distinguish_reused_from_launched_nodes(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, readings: Readings
) -> None:
    await launchers.start(make_site(pod_label()))
    here = {"provider": "local", "pool": make_site.pool, "label": "pod"}
    first = await zuul.submit("pod")
    (node_id,) = (await zuul.answered(first))["nodes"]
    await zuul.cancel(first)

    async def is_free() -> bool:
        node = await zuul.node(node_id)
        return node is not None and node["allocated_to"] is None

    await eventually(is_free, "the node is nobody's")
    assert (await zuul.answered(await zuul.submit("pod")))["nodes"] == [node_id]
    # Counted after the requestor may have read the answer.
    await eventually(lambda: readings.grown("nodes_assigned_total", source="reused", **here) == 1)
    assert readings.grown("nodes_assigned_total", source="launched", **here) == 1
    assert readings.grown("launch_attempts_total", **here) == 1


@pytest.mark.parametrize(
    ("reason", "failure"), [("InvalidImageName", "image"), ("CrashLoopBackOff", "crashed")]
)
async def test_failed_launches_are_counted_by_reason(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    readings: Readings,
    reason: str,
    failure: str,
) -> None:
    await launchers.start(make_site(manual_label(), provider={"launch-retries": 1}))
    here = {"provider": "local", "pool": make_site.pool}
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    namespace = make_site.namespace(node_id)
    await eventually(lambda: admin.pod(namespace), "the pod")
    await admin.set_status(namespace, waiting(reason))
    await zuul.answered(request_id, "failed")
    assert readings.grown("launch_failures_total", label="pod", reason=failure, **here) == 1
    # Counted after the requestor may have read the answer.
    await eventually(
        lambda: readings.grown("request_wait_seconds_count", outcome="failed", **here) == 1
    )


async def test_a_leaked_namespace_that_is_deleted_is_counted(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    readings: Readings,
    statsd: StatsdServer,
) -> None:
    site = make_site(pod_label())
    await (await launchers.start(site)).stop()
    labels = {DEPLOYMENT: await zuul.deployment(), "nodepool_node_id": "0000000042"}
    await admin.create_namespace(make_site.namespace("0000000042"), labels)
    await launchers.start(site)
    leaks = "leaked_namespaces_deleted_total"
    await eventually(lambda: readings.grown(leaks, provider="local") == 1, "counted")
    await statsd.arrived("nodepool.provider.local.leaked.nodes:1|c")


async def test_after_the_stop_no_name_is_looked_up(
    make_site: SiteMaker, launchers: Launchers
) -> None:
    launcher = await launchers.start(make_site(pod_label()))
    assert b"nodepool_k8s_requests{" in telemetry.render()
    await launcher.stop()
    assert b"nodepool_k8s_requests{" not in telemetry.render()


# --- statsd -------------------------------------------------------------------------------------


async def test_launches_arrive_at_statsd_under_nodepools_names(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, statsd: StatsdServer
) -> None:
    await launchers.spawn(make_site(pod_label()))
    await zuul.answered(await zuul.submit("pod", requestor="zuul.example:1"))
    for key in ("", ".provider.local", ".requestor.zuul_example_1"):
        await statsd.counted(f"nodepool.launch{key}.ready")


async def test_a_failed_launch_arrives_at_statsd_as_an_error(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, statsd: StatsdServer
) -> None:
    label = pod_label(node_selector={"no-such": "node"})
    short = {"launch-retries": 1, "unschedulable-timeout": 1}
    await launchers.start(make_site(label, provider=short))
    await zuul.answered(await zuul.submit("pod"), "failed")
    await statsd.counted("nodepool.launch.provider.local.error.nodepool")


async def test_the_gauges_arrive_at_statsd_under_nodepools_names(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, statsd: StatsdServer
) -> None:
    limited = {"tenant-resource-limits": [{"tenant-name": "tenant.one", "max-servers": 3}]}
    site = make_site(pod_label(), pool={"max-servers": 7}, top=limited)
    await launchers.start(site)
    await zuul.answered(await zuul.submit("pod"))
    host = socket.gethostname().replace(".", "_")
    for line in (
        "nodepool.nodes.ready:1|g",
        "nodepool.nodes.in-use:0|g",
        "nodepool.label.pod.nodes.ready:1|g",
        "nodepool.provider.local.nodes.ready:1|g",
        "nodepool.provider.local.max_servers:7|g",
        f"nodepool.provider.local.pool.{make_site.pool}.addressable_requests:1|g",
        "nodepool.tenant_limits.tenant_one.instances:3|g",
        f"nodepool.launcher.{host}.zk.client.connection_queue:0|g",
    ):
        await statsd.arrived(line)


async def test_one_elected_launcher_sends_the_gauges_of_the_records(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, statsd: StatsdServer
) -> None:
    # As a Nodepool launcher that was elected holds it: with kazoo's own recipe.
    nodepool: Lock = await zuul.lock("/nodepool/elections/stats")
    await launchers.start(make_site(pod_label(), pool={"max-servers": 7}))

    def rounds() -> int:
        return statsd.take().count("nodepool.provider.local.max_servers:7|g")

    await eventually(lambda: rounds() >= 5, "some rounds of gauges")
    assert not [line for line in statsd.lines if line.startswith("nodepool.nodes.")]
    await zuul.unlock(nodepool)
    await statsd.arrived("nodepool.nodes.ready:0|g")


async def test_a_statsd_server_that_is_away_disturbs_nothing(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, statsd: StatsdServer
) -> None:
    statsd.socket.close()
    await launchers.start(make_site(pod_label()))
    await zuul.use_and_return(await zuul.submit("pod"))


async def test_a_bad_statsd_port_is_a_clear_error_at_the_start(
    make_site: SiteMaker, launchers: Launchers, statsd: StatsdServer, monkeypatch: Any
) -> None:
    monkeypatch.setenv("STATSD_PORT", "statsd")
    process = launchers.spawn_unready(make_site(pod_label()))
    assert await process.wait(30) == 1
    (line,) = [line for line in process.text().splitlines() if "STATSD_PORT" in line]
    assert "is 'statsd'; it has to be a port, a number from 1 to 65535" in line
    assert "Traceback" not in process.text()


# --- traces -------------------------------------------------------------------------------------


async def test_zuuls_trace_is_continued_at_an_otlp_collector(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = {
        "name": "RequestNodes",
        "trace_id": TRACE,
        "span_id": SPAN,
        "trace_flags": 1,
        "start_time": 1_700_000_000_000_000_000,
        "parent": None,
    }
    data = {**zuul_request([])["requestor_data"], "span_info": info}
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        process = await launchers.spawn(make_site(pod_label()))
        request_id = await zuul.submit("pod", "pod", requestor_data=data)
        nodes = (await zuul.answered(request_id))["nodes"]
        await zuul.use_and_return(request_id)
        await launchers.return_nodes()
        assert await process.terminate() == 0  # What is left is sent as it ends.
    (request,) = collector.named("FulfilRequest")
    assert request.trace_id == TRACE.to_bytes(16, "big")
    assert request.parent_span_id == SPAN.to_bytes(8, "big")
    assert attributes(request)["nodepool.outcome"] == "fulfilled"
    launches = collector.named("LaunchNode")
    assert {span.parent_span_id for span in launches} == {request.span_id}
    assert {attributes(span)["nodepool.node"] for span in launches} == set(nodes)
    assert {attributes(span)["nodepool.pool"] for span in launches} == {make_site.pool}
    attempts = collector.named("Attempt")
    assert {span.parent_span_id for span in attempts} == {span.span_id for span in launches}
    for step in ("namespace", "objects", "ready"):
        parents = {span.parent_span_id for span in collector.named(step)}
        assert parents == {span.span_id for span in attempts}


async def test_a_failed_launchs_span_has_the_reason(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = pod_label(node_selector={"no-such": "node"})
    short = {"launch-retries": 2, "unschedulable-timeout": 1}
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        process = await launchers.spawn(make_site(label, provider=short))
        await zuul.answered(await zuul.submit("pod"), "failed")
        await launchers.return_nodes()
        assert await process.terminate() == 0
    (request,), (launch,) = collector.named("FulfilRequest"), collector.named("LaunchNode")
    attempts = collector.named("Attempt")
    assert [attributes(span)["nodepool.attempt"] for span in attempts] == [1, 2]
    for span in (request, launch, *attempts):
        assert span.status.code == 2
        assert "Unschedulable" in span.status.message
    assert attributes(launch)["nodepool.outcome"] == "unschedulable"


async def test_a_collector_that_is_away_disturbs_nothing(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        port = gone.getsockname()[1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    await launchers.spawn(make_site(pod_label()))
    await zuul.use_and_return(await zuul.submit("pod"))
