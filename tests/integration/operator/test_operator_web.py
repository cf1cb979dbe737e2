"""What the web server promises, with a real HTTP client on a real launcher."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from html import unescape
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from cluster import LocalCluster
from harness import kubeconfig, yamlfile
from harness.api import MERGE
from harness.proxy import Proxy
from prometheus_client.parser import text_string_to_metric_families

from nodepool_k8s.launcher import delete
from nodepool_k8s.launcher.intervals import Intervals
from nodepool_k8s.model import Node, NodeState
from tests.support.admin import Admin
from tests.support.launchers import Launchers, RunningLauncher
from tests.support.site import Site, SiteMaker, manual_label, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

LISTS = ("/node-list", "/request-list", "/label-list")
IMAGE_LISTS = ("/image-list", "/image-status", "/dib-image-list", "/dib-request-list")
PROBES = ("/ready", "/live")
EVERY_PATH = ("/", "/api/status", "/metrics", *LISTS, *IMAGE_LISTS, *PROBES)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Any
    text: str

    @property
    def type(self) -> str:
        return str(self.headers["Content-Type"])

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def cells(self) -> list[list[str]]:
        """The rows of a table of text, headings first."""
        rows = [line for line in self.text.splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


class Browser:
    """An HTTP client of one launcher."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self._base = base
        self._session = session

    async def get(
        self, path: str, accept: str | None = None, method: str = "GET", **headers: str
    ) -> Reply:
        if accept is not None:
            headers["Accept"] = accept
        url = self._base + path
        async with self._session.request(method, url, headers=headers) as response:
            return Reply(response.status, response.headers, await response.text())

    async def list(self, path: str) -> Any:
        """A list as JSON; it may be a second old."""
        reply = await self.get(path, "application/json")
        assert reply.status == 200, reply
        return reply.json

    async def status(self) -> Any:
        return (await self.get("/api/status")).json

    async def answered(self, zuul: Zuul, *labels: str) -> tuple[str, str]:
        """Have a request answered and shown so: its id, and its node's.

        Zuul may hear of an answer before the launcher's own view of ZooKeeper does.
        """
        request_id = await zuul.submit(*labels)
        (node_id,) = (await zuul.answered(request_id))["nodes"]

        async def shown() -> bool:
            requests = await self.list("/request-list?state=fulfilled")
            nodes = await self.list("/node-list?state=ready")
            locked = {row["id"]: row["locked"] for row in nodes}
            is_answered = request_id in [row["id"] for row in requests]
            return is_answered and locked.get(node_id) == "unlocked"

        await eventually(shown, "the answer is shown")
        return request_id, node_id


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    # No header but those that the test sends.
    async with aiohttp.ClientSession(skip_auto_headers=["Accept", "User-Agent"]) as session:
        yield session


async def base_of(launcher: RunningLauncher) -> str:
    def address() -> tuple[str, int] | None:
        web = launcher.launcher.web
        return web.address if web else None

    host, port = await eventually(address, "the web server listens")
    return f"http://{host}:{port}"


async def browse(launcher: RunningLauncher, http: aiohttp.ClientSession) -> Browser:
    return Browser(await base_of(launcher), http)


@pytest.fixture
async def browser(
    make_site: SiteMaker, launchers: Launchers, http: aiohttp.ClientSession
) -> Browser:
    """On a launcher with two labels."""
    return await browse(await launchers.start(make_site(pod_label(), namespace_label())), http)


# --- Nodepool's lists --------------------------------------------------------------------


async def test_node_list_has_a_node_under_nodepools_keys(browser: Browser, zuul: Zuul) -> None:
    request_id, node_id = await browser.answered(zuul, "pod")
    (row,) = await browser.list("/node-list")
    record = await zuul.node(node_id)
    assert record is not None
    expected = {
        "id": node_id,
        "provider": "local",
        "pool": record["pool"],
        "label": ["pod"],
        "server_id": record["external_id"],
        "state": "ready",
        "locked": "unlocked",
        "launcher": record["launcher"],
        "allocated_to": request_id,
        "connection_port": "redacted",
        "public_ipv4": None,
        "hold_job": None,
    }
    assert row | expected | {"connection_port": row["connection_port"]} == row
    assert re.fullmatch(r"\d\d:\d\d:\d\d:\d\d", row["age"])


async def test_node_list_follows_a_node_through_its_states(browser: Browser, zuul: Zuul) -> None:
    request_id = await zuul.submit("namespace")
    await zuul.answered(request_id)
    locks = await zuul.accept(request_id)

    async def shows(**expected: str) -> bool:
        rows = await browser.list("/node-list")
        return [{key: row[key] for key in expected} for row in rows] == [expected]

    await eventually(lambda: shows(state="in-use", locked="locked"), "in use")
    await zuul.give_back(locks)

    async def empty() -> bool:
        return not await browser.list("/node-list")

    await eventually(empty, "no node")


async def test_a_table_of_text_has_nodepools_headings_in_its_order(
    browser: Browser, zuul: Zuul
) -> None:
    await browser.answered(zuul, "pod")
    nodes = await browser.get("/node-list")
    assert nodes.type == "text/plain; charset=UTF-8"
    assert nodes.cells[0] == [
        "ID",
        "Provider",
        "Label",
        "Server ID",
        "Public IPv4",
        "IPv6",
        "State",
        "Age",
        "Locked",
        "Pool",
        "Hostname",
        "Private IPv4",
        "AZ",
        "Username",
        "Port",
        "Launcher",
        "Allocated To",
        "Hold Job",
        "Comment",
        "User Data",
        "Driver Data",
    ]
    assert nodes.cells[1][:3] == ["0000000000", "local", "pod"]
    requests = await browser.get("/request-list")
    assert requests.cells[0] == [
        "Request ID",
        "Priority",
        "State",
        "Requestor",
        "Node Types",
        "Nodes",
        "Declined By",
        "Event ID",
    ]
    assert requests.cells[1][2:6] == ["fulfilled", "zuul system", "pod", "0000000000"]
    assert (await browser.get("/label-list")).cells == [["Label"], ["namespace"], ["pod"]]


async def test_request_list_shows_a_request_and_why_it_failed(browser: Browser, zuul: Zuul) -> None:
    request_id = await zuul.submit("nonesuch", relative_priority=3, event_id="e1")
    await zuul.answered(request_id, "failed")

    async def failed() -> Any:
        (row,) = await browser.list("/request-list")
        return row if row["state"] == "failed" else None

    row = await eventually(failed, "the request failed")
    assert row["id"] == request_id
    assert (row["relative_priority"], row["event_id"]) == (3, "e1")
    assert (row["node_types"], row["requestor"]) == (["nonesuch"], "zuul system")
    assert len(row["declined_by"]) == 1
    assert "nonesuch" in row["reasons"][0]


async def test_label_list_has_the_labels_of_every_registered_pool(
    browser: Browser, zuul: Zuul
) -> None:
    await zuul.register(id="elsewhere-1", supported_labels=["pod", "windows"])

    async def labels() -> bool:
        rows = await browser.list("/label-list")
        assert [row["label"] for row in rows] == ["namespace", "pod", "windows"]
        return True

    await eventually(labels, "three labels")


async def test_the_image_lists_of_dashboards_exist_and_are_empty(
    browser: Browser,
) -> None:
    for path in IMAGE_LISTS:
        assert await browser.list(path) == []
        (headings,) = (await browser.get(path)).cells
        assert len(headings) > 3


# --- forms, fields, filters ----------------------------------------------------------------


async def test_the_accept_header_chooses_json_or_text(
    browser: Browser,
) -> None:
    for path in (*LISTS, *IMAGE_LISTS):
        for accept in (None, "*/*", "text/plain", BROWSER):
            reply = await browser.get(path, accept)
            assert (reply.status, reply.type) == (200, "text/plain; charset=UTF-8")
        reply = await browser.get(path, "application/json")
        assert (reply.status, reply.type) == (200, "application/json")
        assert isinstance(reply.json, list)


async def test_a_form_that_is_not_there_is_refused_with_what_is(browser: Browser) -> None:
    for accept in (
        "image/png",
        "application/json;q=0",
        "banana",
        ";;,q=1,\xff/\xff",
        "application/json;q=none",
    ):
        reply = await browser.get("/node-list", accept)
        assert reply.status == 406
        assert "text/plain, application/json" in reply.text


async def test_fields_choose_columns_of_the_table_and_keys_of_json(
    browser: Browser, zuul: Zuul
) -> None:
    await browser.answered(zuul, "pod")
    reply = await browser.get("/node-list?fields=state,id,tenant_name")
    assert reply.cells == [["ID", "State", "Tenant"], ["0000000000", "ready", "tenant-one"]]
    rows = await browser.list("/node-list?fields=state,id,tenant_name")
    assert rows == [{"id": "0000000000", "state": "ready", "tenant_name": "tenant-one"}]


async def test_filters_choose_rows(browser: Browser, zuul: Zuul, make_site: SiteMaker) -> None:
    first, pod_id = await browser.answered(zuul, "pod")
    second, _ = await browser.answered(zuul, "namespace")
    locks = await zuul.accept(second)

    async def found(query: str) -> list[str]:
        return sorted(row["label"][0] for row in await browser.list(f"/node-list?{query}"))

    async def in_use() -> bool:
        return await found("state=in-use") == ["namespace"]

    await eventually(in_use, "in use")
    assert await found(f"node_id={pod_id}") == ["pod"]
    assert await found("node_id=0099999999") == []
    assert await found("label=pod") == ["pod"]
    assert await found("state=ready&state=in-use") == ["namespace", "pod"]
    assert await found(f"provider=local&pool={make_site.pool}") == ["namespace", "pod"]
    assert await found("provider=nowhere") == []
    assert await found("pool=nowhere") == []
    requests = await browser.list("/request-list?state=fulfilled&label=pod")
    assert [row["id"] for row in requests] == [first]
    await zuul.give_back(locks)


async def test_a_senseless_query_is_refused_with_what_is_expected(
    browser: Browser,
) -> None:
    for path, expected in {
        "/node-list?node_id=abc": "node_id is 'abc'; expected a node's id, such as 0000000042",
        "/node-list?state=happy": "state is 'happy'; expected one of: init, building",
        "/request-list?state=ready": "expected one of: requested, pending, fulfilled, failed",
        "/node-list?fields=id,colour": "unknown field 'colour'; expected some of: id, provider",
        "/node-list?provder=x": "expected one of: fields, node_id, provider, pool, label, state",
        "/label-list?node_id=1": "expected one of: fields, label, provider",
        "/image-list?%00%ff=%1b": "unknown parameter '\\x00",
    }.items():
        reply = await browser.get(path)
        assert (reply.status, reply.type) == (400, "text/plain; charset=UTF-8"), reply
        assert expected in reply.text


# --- HTTP ----------------------------------------------------------------------------------


async def test_responses_have_caching_and_cors_headers(
    browser: Browser,
) -> None:
    reply = await browser.get("/node-list")
    assert reply.headers["Cache-Control"] == "public, max-age=1"
    assert reply.headers["Vary"] == "Accept"
    modified = parsedate_to_datetime(reply.headers["Last-Modified"])
    expires = parsedate_to_datetime(reply.headers["Expires"])
    assert 0 <= (expires - modified).total_seconds() <= 2
    for path in (*EVERY_PATH, "/nowhere", "/node-list?x=y"):
        headers = (await browser.get(path)).headers
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert headers["Server"] == "nodepool-k8s"
    for path in PROBES:
        assert (await browser.get(path)).headers["Cache-Control"] == "no-store"


async def test_what_has_not_changed_is_not_sent_again(browser: Browser) -> None:
    async def unchanged() -> bool:
        # Whoever asks across the second gets a new answer, and asks again.
        modified = (await browser.get("/node-list")).headers["Last-Modified"]
        again = await browser.get("/node-list", **{"If-Modified-Since": modified})
        assert again.status == 304
        assert again.text == ""
        return True

    await eventually(unchanged, "not modified")
    old = await browser.get("/node-list", **{"If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"})
    assert old.status == 200


async def test_head_is_get_without_the_body(browser: Browser) -> None:
    await readiness(browser, 200)
    for path in EVERY_PATH:
        reply = await browser.get(path, method="HEAD")
        assert (reply.status, reply.text) == (200, "")
        assert reply.type == (await browser.get(path)).type
    assert (await browser.get("/nowhere", method="HEAD")).status == 404


async def test_nothing_can_be_changed_over_http(browser: Browser) -> None:
    for path in EVERY_PATH:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            reply = await browser.get(path, method=method)
            assert reply.status == 405
            assert reply.headers["Allow"] == "GET, HEAD"
            assert "GET, HEAD" in reply.text


async def test_an_unknown_path_is_answered_with_those_that_there_are(browser: Browser) -> None:
    for path in ("/nowhere", "/node-list/", "/api", "/..%2f..%2fetc/passwd", "/" + "a" * 3000):
        reply = await browser.get(path)
        assert reply.status == 404
        for known in EVERY_PATH:
            assert known in reply.text


async def test_broken_and_huge_http_requests_are_refused(
    make_site: SiteMaker, launchers: Launchers, http: aiohttp.ClientSession, zuul: Zuul
) -> None:
    launcher = await launchers.start(make_site(namespace_label()))
    base = await base_of(launcher)
    host, port = base.removeprefix("http://").split(":")

    async def send(data: bytes, *, hang_up: bool = False) -> bytes:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(data)
            if hang_up:
                writer.write_eof()
            # What is not read of a huge request resets the connection behind the answer.
            with suppress(ConnectionResetError):
                return await asyncio.wait_for(reader.read(1000), 20)
            return b""
        finally:
            writer.close()

    for data in (
        b"nonsense\r\n\r\n",
        b"GET /node-list HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    ):
        answer = await send(data)
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), (data[:40], answer[:200])
        assert b"Traceback" not in answer
    for unfinished in (b"", b"GET /live HT", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
        assert await send(unfinished, hang_up=True) == b""
    await zuul.use_and_return(await zuul.submit("namespace"))
    assert (await Browser(base, http).get("/live")).status == 200


async def test_metrics_are_in_prometheus_text_format(browser: Browser) -> None:
    reply = await browser.get("/metrics")
    assert (reply.status, reply.type.partition(";")[0]) == (200, "text/plain")
    families = {family.name for family in text_string_to_metric_families(reply.text)}
    assert any(name.startswith("nodepool_k8s_") for name in families)
    assert "process_resident_memory_bytes" in families


# --- readiness -------------------------------------------------------------------------------


def proxied(site: Site, proxy: Proxy) -> Site:
    """The site, with ZooKeeper behind the proxy."""
    text = site.path.read_text(encoding="utf-8")
    host, _, port = site.cluster.zookeeper.rpartition(":")
    proxy_host, _, proxy_port = proxy.address.rpartition(":")
    changed = text.replace(
        f"host: {host}\n  port: {port}", f"host: {proxy_host}\n  port: {proxy_port}"
    )
    assert changed != text
    site.path.write_text(changed, encoding="utf-8")
    return site


OTHER_CONTEXT = "the-other-way"


def add_context(path: Path, cluster: LocalCluster, address: str) -> None:
    """Write a kubeconfig with one more context, which reaches the cluster at that address."""
    document = yamlfile.load(cluster.kubeconfig)
    yamlfile.replace(path, kubeconfig.with_context(document, OTHER_CONTEXT, f"https://{address}"))


async def readiness(browser: Browser, status: int, *words: str) -> None:
    async def check() -> bool:
        reply = await browser.get("/ready")
        assert reply.status == status, reply
        for word in words:
            assert word in reply.text
        return True

    await eventually(check, f"/ready says {status}")


async def test_ready_is_ok_when_the_launcher_can_work(browser: Browser) -> None:
    await readiness(browser, 200)
    assert (await browser.get("/ready")).text == "OK"


async def test_ready_is_503_while_zookeeper_is_not_connected(
    make_site: SiteMaker,
    launchers: Launchers,
    local_cluster: LocalCluster,
    http: aiohttp.ClientSession,
    zuul: Zuul,
) -> None:
    async with Proxy.to(local_cluster.zookeeper) as proxy:
        site = proxied(make_site(namespace_label(), top={"zookeeper-timeout": 4}), proxy)
        await proxy.refuse()
        launcher = launchers.start_unready(site)
        browser = await browse(launcher, http)
        await readiness(browser, 503, "ZooKeeper", proxy.address.rpartition(":")[2])
        reply = await browser.get("/node-list")
        assert (reply.status, "ZooKeeper" in reply.text) == (503, True)
        assert (await browser.get("/live")).status == 200
        proxy.restore()
        await readiness(browser, 200)
        await proxy.refuse()
        await readiness(browser, 503, "ZooKeeper")
        assert (await browser.get("/live")).status == 200
        assert "Not ready" in (await browser.get("/")).text
        proxy.restore()
        await readiness(browser, 200)
        await zuul.use_and_return(await zuul.submit("namespace"))
        await launchers.leave_nothing()


async def test_ready_is_503_while_no_providers_cluster_can_be_reached(
    make_site: SiteMaker,
    launchers: Launchers,
    local_cluster: LocalCluster,
    http: aiohttp.ClientSession,
    admin: Admin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Proxy.to(admin.url.removeprefix("https://")) as proxy:
        add_context(tmp_path / "kubeconfig", local_cluster, proxy.address)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        site = make_site(namespace_label(), provider={"context": OTHER_CONTEXT})
        await proxy.refuse()
        launcher = launchers.start_unready(site)
        browser = await browse(launcher, http)
        await readiness(browser, 503, "provider local")
        proxy.restore()
        await readiness(browser, 200)
        await proxy.refuse()
        await readiness(browser, 503, "provider local", "has not answered")
        proxy.restore()
        await readiness(browser, 200)
        await launchers.leave_nothing()


async def test_ready_is_503_and_live_200_while_it_stops(
    make_site: SiteMaker,
    launchers: Launchers,
    http: aiohttp.ClientSession,
    zuul: Zuul,
    admin: Admin,
) -> None:
    launcher = await launchers.start(make_site(manual_label()))
    browser = await browse(launcher, http)
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    namespace = make_site.namespace(node_id)
    await eventually(lambda: admin.pod(namespace), "its pod")
    launcher.launcher.stop()
    await readiness(browser, 503, "stopped")
    assert (await browser.get("/live")).status == 200
    await admin.make_ready(namespace)
    await launcher.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await browser.get("/live")


# --- the status page -------------------------------------------------------------------------


async def shown(browser: Browser, check: Any) -> Any:
    """The status, once it passes the check."""
    found: Any = None

    async def look() -> bool:
        nonlocal found
        found = await browser.status()
        return bool(check(found))

    await eventually(look, "the status")
    return found


async def page(browser: Browser) -> str:
    reply = await browser.get("/")
    assert (reply.status, reply.type) == (200, "text/html; charset=UTF-8")
    return reply.text


async def test_the_page_shows_quota_and_waiting_requests(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, http: aiohttp.ClientSession
) -> None:
    limits = {"max-servers": 2, "max-cores": 2}
    site = make_site(pod_label(cpu=1, memory=64), pool=limits)
    browser = await browse(await launchers.start(site), http)
    first = await zuul.submit("pod", "pod")
    await zuul.answered(first)
    second = await zuul.submit("pod")
    status = await shown(browser, lambda status: status["pools"][0]["waits_for"])
    (pool,) = status["pools"]
    assert pool["resources"] == {
        "instances": {"used": 2, "limit": 2},
        "cores": {"used": 2, "limit": 2},
        "ram": {"used": 128, "limit": None},
    }
    assert (pool["waiting"], pool["priority"], pool["labels"]) == (1, 100, ["pod"])
    assert "2 of 2 instances in use, 1 needed" in pool["waits_for"]
    (waiting,) = status["waiting"]
    assert (waiting["request"], waiting["waits_for"]) == (second, pool["waits_for"])
    await shown(browser, lambda status: status["pools"][0]["paused"])
    text = await page(browser)
    for words in ("instances: 2 of 2", "ram: 128 no limit", second, "in use, 1 needed"):
        assert words in text
    await zuul.cancel(second)


async def test_the_page_says_what_launches_wait_for(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    http: aiohttp.ClientSession,
) -> None:
    site = make_site(manual_label())
    browser = await browse(await launchers.start(site), http)
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    namespace = make_site.namespace(node_id)

    def waits(status: Any) -> bool:
        nodes = [node for request in status["in_flight"] for node in request["nodes"]]
        return [node["node"] for node in nodes if node["waits_for"]] == [node_id]

    status = await shown(browser, waits)
    (request,) = status["in_flight"]
    assert request["request"] == request_id
    assert request["nodes"][0]["namespace"] == namespace
    await eventually(lambda: admin.pod(namespace), "its pod")
    await admin.delete_pod(namespace)
    await shown(browser, lambda status: "deleted" in status["in_flight"][0]["nodes"][0]["failure"])
    text = await page(browser)
    for words in (request_id, namespace, "deleted"):
        assert words in text
    await zuul.cancel(request_id)


async def test_the_page_remembers_failed_attempts_after_a_success(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    http: aiohttp.ClientSession,
) -> None:
    browser = await browse(await launchers.start(make_site(manual_label())), http)
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    first, second = make_site.namespace(node_id), make_site.namespace(node_id, 1)
    await eventually(lambda: admin.pod(first), "its pod")
    await admin.delete_pod(first)
    await eventually(lambda: admin.pod(second), "the next attempt's pod")
    await admin.make_ready(second)
    await zuul.answered(request_id)
    status = await shown(browser, lambda status: not status["in_flight"])
    (failure,) = status["failures"]
    assert (failure["request"], failure["node"]) == (request_id, node_id)
    assert "deleted" in failure["reason"]


async def test_the_page_remembers_why_deleted_requests_failed(browser: Browser, zuul: Zuul) -> None:
    request_id = await zuul.submit("nonesuch")
    await zuul.answered(request_id, "failed")
    await zuul.cancel(request_id)
    status = await shown(browser, lambda status: status["failures"])
    (failure,) = status["failures"]
    assert failure["request"] == request_id
    assert "nonesuch" in failure["reason"]
    text = await page(browser)
    assert failure["reason"] in unescape(text)


async def test_an_unreachable_provider_is_named_and_others_count(
    make_site: SiteMaker,
    launchers: Launchers,
    local_cluster: LocalCluster,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Proxy.to("127.0.0.1:1") as proxy:
        await proxy.refuse()
        add_context(tmp_path / "kubeconfig", local_cluster, proxy.address)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        near = {"name": make_site.pool, "labels": [namespace_label()]}
        far = {"name": f"{make_site.pool}-far", "labels": [namespace_label()]}
        site = make_site.of(
            [
                {"name": "far", "context": OTHER_CONTEXT, "pools": [far]},
                {"name": "near", "pools": [near]},
            ]
        )
        browser = await browse(await launchers.start(site), http)
        await readiness(browser, 200)
        status = await shown(browser, lambda status: status["providers"][0]["trouble"])
        (first, second) = status["providers"]
        assert (first["provider"], first["in_touch"]) == ("far", False)
        assert (second["provider"], second["in_touch"], second["trouble"]) == ("near", True, "")
        assert first["trouble"] in unescape(await page(browser))
        await launchers.leave_nothing()


async def test_the_page_shows_stuck_namespaces_and_what_blocks_them(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delete, "REPORT_AFTER", 0.5)
    browser = await browse(await launchers.start(make_site(namespace_label())), http)
    request_id = await zuul.submit("namespace")
    (node_id,) = (await zuul.answered(request_id))["nodes"]
    namespace = make_site.namespace(node_id)
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    held = {"metadata": {"name": "held", "finalizers": ["example.org/nobody"]}}
    await admin.call("POST", path, held)
    await zuul.use_and_return(request_id)
    try:
        status = await shown(browser, lambda status: "example.org/nobody" in str(status["stuck"]))
        (stuck,) = status["stuck"]
        assert (stuck["node"], stuck["namespace"]) == (node_id, namespace)
        text = await page(browser)
        for words in (namespace, "example.org/nobody"):
            assert words in text
    finally:
        await admin.call("PATCH", f"{path}/held", {"metadata": {"finalizers": None}}, MERGE)
    await shown(browser, lambda status: not status["stuck"])


async def test_the_page_shows_a_namespace_that_outlives_its_record(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    http: aiohttp.ClientSession,
) -> None:
    often = Intervals(upkeep=0.3, stuck=1.0)
    launcher = await launchers.start(make_site(pod_label()), often)
    browser = await browse(launcher, http)
    request_id = await zuul.submit("pod")
    (node_id,) = (await zuul.answered(request_id))["nodes"]
    path = f"/api/v1/namespaces/{make_site.namespace(node_id)}/configmaps"
    held = {"metadata": {"name": "held", "finalizers": ["example.org/nobody"]}}
    await admin.call("POST", path, held)
    try:
        await zuul.use_and_return(request_id)
        await zuul.gone(node_id)
        status = await shown(browser, lambda status: "example.org/nobody" in str(status["stuck"]))
        (stuck,) = status["stuck"]
        assert (stuck["provider"], stuck["namespace"]) == ("local", make_site.namespace(node_id))
        assert "example.org/nobody" in await page(browser)
    finally:
        await admin.call("PATCH", f"{path}/held", {"metadata": {"finalizers": None}}, MERGE)
    await shown(browser, lambda status: not status["stuck"])


async def test_what_others_write_into_zookeeper_cannot_become_html(
    browser: Browser, zuul: Zuul
) -> None:
    evil = "<script>alert(1)</script>"
    await zuul.register(id="elsewhere-1", supported_labels=[evil + "2"], provider_name=evil)
    request_id = await zuul.submit(evil, requestor=f"'\"{evil}&amp;", tenant_name=evil)
    await shown(browser, lambda status: evil in json.dumps(status["failures"]))
    reply = await browser.get("/")
    assert evil in unescape(reply.text)
    assert evil not in reply.text
    assert "script" not in reply.headers["Content-Security-Policy"]
    for path in (*LISTS, *IMAGE_LISTS):
        reply = await browser.get(path, BROWSER)
        assert reply.type.startswith("text/plain")
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
    await zuul.cancel(request_id)


async def test_the_page_needs_nothing_from_elsewhere(browser: Browser) -> None:
    text = await page(browser)
    assert not re.search(r"<(script|link|img|iframe)|url\(|@import|https?://", text)
    links = re.findall(r'href="([^"]*)"', text)
    assert "/node-list" in links
    for link in links:
        assert (await browser.get(link)).status == 200


# --- secrets -----------------------------------------------------------------------------------


async def test_no_answer_has_a_nodes_token(browser: Browser, zuul: Zuul, admin: Admin) -> None:
    requests = [await zuul.submit("pod"), await zuul.submit("namespace")]
    tokens = []
    for request_id in requests:
        (node_id,) = (await zuul.answered(request_id))["nodes"]
        record = await zuul.node(node_id)
        assert record is not None
        tokens.append(record["connection_port"]["token"])
    assert all(len(token) > 100 for token in tokens)
    locks = await zuul.accept(requests[0])
    (in_use,) = locks
    hidden = {"note": tokens[0], "token": "open-sesame", "deep": [{"password": "open-sesame"}]}
    await zuul.set_node(in_use, user_data=hidden, comment=f"use {tokens[0]} here", hold_job=None)

    async def noticed() -> bool:
        return "redacted" in json.dumps(await browser.list(f"/node-list?node_id={in_use}"))

    await eventually(noticed, "the comment")
    every_field = "&fields=" + ",".join((await browser.list("/node-list"))[0])
    paths = [*EVERY_PATH, f"/node-list?node_id={in_use}", "/node-list?state=in-use" + every_field]
    for path in paths:
        for accept in (None, "application/json"):
            text = (await browser.get(path, accept)).text
            for token in tokens:
                # Not even a part that would identify it.
                assert token[-40:] not in text
                assert token.split(".")[1][:40] not in text
            assert "open-sesame" not in text
    await zuul.give_back(locks)


# --- where it listens ----------------------------------------------------------------------------


async def test_a_taken_port_is_reported_and_bound_once_it_is_free(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    http: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ignore(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    other = await asyncio.start_server(ignore, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    webapp = {"port": port, "listen_address": "127.0.0.1"}
    launcher = await launchers.start(make_site(namespace_label(), top={"webapp": webapp}))
    await zuul.use_and_return(await zuul.submit("namespace"))
    await eventually(lambda: f"cannot listen at 127.0.0.1:{port}" in caplog.text, "the error")
    assert "webapp.port" in caplog.text
    assert "--no-webapp" in caplog.text
    other.close()
    await other.wait_closed()
    browser = await browse(launcher, http)
    await readiness(browser, 200)


async def test_an_address_that_is_not_this_machines_is_reported(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    caplog: pytest.LogCaptureFixture,
) -> None:
    webapp = {"port": 0, "listen_address": "192.0.2.1"}
    await launchers.start(make_site(namespace_label(), top={"webapp": webapp}))
    await zuul.use_and_return(await zuul.submit("namespace"))
    await eventually(lambda: "cannot listen at 192.0.2.1:0" in caplog.text, "the error")
    assert "webapp.listen_address" in caplog.text


async def test_a_changed_webapp_section_is_taken_up_without_a_restart(
    make_site: SiteMaker,
    launchers: Launchers,
    http: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = make_site(namespace_label())
    launcher = await launchers.start(site)
    web = launcher.launcher.web
    assert web is not None
    assert (await (await browse(launcher, http)).get("/live")).status == 200
    old = web.address
    assert old is not None

    def configure(listen_address: str) -> None:
        document = yaml.safe_load(site.path.read_text(encoding="utf-8"))
        document["webapp"] = {"port": 0, "listen_address": listen_address}
        site.path.write_text(yaml.safe_dump(document), encoding="utf-8")
        launcher.launcher.reload()

    configure("127.0.0.2")
    await eventually(lambda: web.address and web.address[0] == "127.0.0.2", "it moved")
    browser = await browse(launcher, http)
    await readiness(browser, 200)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*old)
    configure("192.0.2.1")
    await eventually(lambda: "cannot listen at 192.0.2.1:0" in caplog.text, "the error")
    configure("127.0.0.1")
    await eventually(lambda: web.address and web.address[0] == "127.0.0.1", "it is back")
    await readiness(await browse(launcher, http), 200)


async def test_a_taken_port_costs_no_other_launcher_its_own(
    make_site: SiteMaker, launchers: Launchers, http: aiohttp.ClientSession
) -> None:
    site = make_site(namespace_label())
    browsers = [await browse(await launchers.start(site), http) for _ in range(3)]
    for browser in browsers:
        await readiness(browser, 200)


async def test_without_a_webapp_nothing_listens_or_is_imported(
    make_site: SiteMaker, zuul: Zuul, tmp_path: Path
) -> None:
    program = tmp_path / "launcher.py"
    program.write_text(
        "import asyncio, sys, threading\n"
        "from nodepool_k8s import config\n"
        "from nodepool_k8s.kubernetes.driver import KubernetesDriverFactory\n"
        "from nodepool_k8s.launcher.daemon import Launcher\n"
        "async def main():\n"
        "    settings, drivers = config.load(sys.argv[1]), KubernetesDriverFactory()\n"
        "    launcher = Launcher(settings, drivers, webapp=False)\n"
        "    running = asyncio.ensure_future(launcher.run())\n"
        "    await launcher.ready.wait()\n"
        "    assert launcher.web is None\n"
        "    loaded = [name for name in sys.modules if name.startswith("
        "('aiohttp.web', 'nodepool_k8s.web'))]\n"
        "    launcher.stop()\n"
        "    await running\n"
        "    print('loaded:', *loaded)\n"
        "asyncio.run(main())\n",
        encoding="utf-8",
    )
    site = make_site(namespace_label())
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), str(site.path), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert out.decode().strip() == "loaded:"


# --- many nodes ----------------------------------------------------------------------------------


async def test_10000_nodes_are_listed_while_requests_are_served(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, http: aiohttp.ClientSession
) -> None:
    launcher = await launchers.start(make_site(namespace_label()))
    mirror = launcher.launcher.snapshots.records
    assert mirror is not None
    # Another launcher's nodes, which this one only shows.
    many = {
        f"{number:010}": Node(
            f"{number:010}", NodeState.IN_USE, ("pod",), "elsewhere", "main", launcher="other"
        )
        for number in range(5_000_000, 5_010_000)
    }
    mirror.nodes.update(many)
    browser = await browse(launcher, http)
    try:
        replies = await asyncio.gather(
            browser.get("/node-list", "application/json"),
            browser.get("/node-list"),
            browser.get("/api/status"),
            zuul.use_and_return(await zuul.submit("namespace")),
        )
    finally:
        for node_id in many:
            del mirror.nodes[node_id]
    assert len(replies[0].json) >= len(many)
    assert len(replies[1].cells) >= len(many)
    assert replies[2].json["nodes"]["in-use"] >= len(many)
