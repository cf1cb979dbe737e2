"""Stopping and signals: what is in flight ends well, and whoever asks is told what goes on."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import nodepool_yaml
from harness.launcher import LauncherProcess
from harness.proxy import Proxy
from harness.requestor import NODES, POOLS

from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import SiteMaker, manual_label, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


async def pod_there(admin: Admin, namespace: str) -> None:
    """The launch has come so far that only the pod's readiness is missing."""

    async def check() -> bool:
        return await admin.pod(namespace) is not None

    await eventually(check, f"the pod in {namespace}")


async def deregistered(zuul: Zuul, count: int = 0) -> None:
    async def check() -> bool:
        return len(await zuul.children(POOLS)) == count

    await eventually(check, f"{count} pools left")


async def ended(launcher: LauncherProcess) -> int:
    return await launcher.wait()


# --- the first signal ------------------------------------------------------------------------


@pytest.mark.parametrize("number", STOPS)
async def test_a_launch_under_way_is_finished_and_handed_over(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, number: int
) -> None:
    site = make_site(manual_label())
    launcher = await launchers.spawn(site, "--drain-timeout", "40")
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    await pod_there(admin, make_site.namespace(node_id))
    launcher.send_signal(number)
    await deregistered(zuul)
    assert launcher.status is None
    await admin.make_ready(make_site.namespace(node_id))
    assert await ended(launcher) == 0
    request = await zuul.request(request_id)
    assert request is not None
    assert request["state"] == "fulfilled"
    await launchers.start(site)
    await zuul.use_and_return(request_id)


async def test_what_is_not_finished_in_time_is_given_back_and_removed(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(manual_label())
    launcher = await launchers.spawn(site, "--drain-timeout", "6")
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    await pod_there(admin, make_site.namespace(node_id))
    assert await launcher.terminate() == 0
    request = await zuul.request(request_id)
    assert request is not None
    assert request["state"] == "requested"
    assert not await zuul.held_locks()
    assert not await zuul.children(NODES)
    assert not await admin.namespaces(await zuul.deployment())
    await zuul.cancel(request_id)


async def test_ready_nodes_of_a_returned_request_stay_for_others(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), manual_label("slow"))
    launcher = await launchers.spawn(site, "--drain-timeout", "6")
    request_id = await zuul.submit("pod", "slow")
    await eventually(lambda: " is ready: " in launcher.text(), "one of its nodes ready")
    assert await launcher.terminate() == 0
    ((spare, node),) = (await zuul.nodes()).items()
    assert (node["state"], node["type"], node["allocated_to"]) == ("ready", ["pod"], None)
    assert not await zuul.held_locks()
    await zuul.cancel(request_id)
    await launchers.start(site)
    again = await zuul.submit("pod")
    assert (await zuul.answered(again))["nodes"] == [spare]
    await zuul.use_and_return(again)


async def test_with_a_drain_timeout_of_0_all_is_returned_at_once(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(manual_label())
    launcher = await launchers.spawn(site, "--drain-timeout", "0")
    request_id = await zuul.submit("pod", "pod")
    nodes = await zuul.building(request_id, 2)
    for node_id in nodes:
        await pod_there(admin, make_site.namespace(node_id))
    assert await launcher.terminate() == 0
    assert "to finish" not in launcher.text()
    request = await zuul.request(request_id)
    assert request is not None
    assert request["state"] == "requested"
    assert not await zuul.held_locks()
    await zuul.cancel(request_id)
    await launchers.start(site)
    await zuul.gone(*nodes)


async def test_a_stopping_launcher_accepts_no_requests(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(manual_label(), pod_label("other"), pool={"priority": 1})
    lower = make_site(pod_label("other"), pool={"name": f"{make_site.pool}-low", "priority": 9})
    launcher = await launchers.spawn(site, "--drain-timeout", "40")
    await launchers.spawn(lower)
    unfinished = await zuul.submit("pod")
    (node_id,) = await zuul.building(unfinished)
    await pod_there(admin, make_site.namespace(node_id))
    launcher.send_signal(signal.SIGTERM)
    await deregistered(zuul, 1)
    request = await zuul.answered(later := await zuul.submit("other"))
    node = await zuul.node(request["nodes"][0])
    assert node is not None
    assert node["pool"] == f"{make_site.pool}-low"
    assert launcher.status is None
    await zuul.cancel(unfinished)
    assert await ended(launcher) == 0
    await zuul.use_and_return(later)


async def test_a_request_at_quota_stays_requested(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), pool={"max-servers": 1})
    launcher = await launchers.spawn(site)
    first = await zuul.submit("pod")
    await zuul.answered(first)
    waiting = await zuul.submit("pod")
    await eventually(lambda: f"{waiting} waits for quota" in launcher.text(), "it waits")
    assert await launcher.terminate() == 0
    request = await zuul.request(waiting)
    assert request is not None
    assert request["state"] == "requested"
    await launchers.start(site)
    await zuul.use_and_return(first)
    await zuul.use_and_return(waiting)


async def test_it_stops_in_time_while_zookeeper_is_away(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    async with Proxy.to(make_site.cluster.zookeeper) as proxy:
        servers = [nodepool_yaml.server(proxy.address, make_site.chroot)]
        site = make_site(manual_label(), top={"zookeeper-servers": servers, "zookeeper-timeout": 4})
        launcher = await launchers.spawn(site, "--drain-timeout", "3")
        request_id = await zuul.submit("pod")
        (node_id,) = await zuul.building(request_id)
        await pod_there(admin, make_site.namespace(node_id))
        await proxy.refuse()
        launcher.send_signal(signal.SIGTERM)
        assert await ended(launcher) == 0
    await zuul.cancel(request_id)
    await launchers.start(make_site(manual_label()))
    await zuul.gone(node_id)


# --- the second ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGINT, signal.SIGTERM),
    ],
)
async def test_a_second_signal_ends_the_launcher_at_once(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    first: signal.Signals,
    second: signal.Signals,
) -> None:
    site = make_site(manual_label(), top={"zookeeper-timeout": 4})
    launcher = await launchers.spawn(site, "--drain-timeout", "600")
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    await pod_there(admin, make_site.namespace(node_id))
    launcher.send_signal(first)
    await deregistered(zuul)
    assert launcher.status is None
    launcher.send_signal(second)
    assert await ended(launcher) == 128 + second
    assert "Traceback" not in launcher.text()
    # Nothing was done about what it held.
    assert (await zuul.nodes())[node_id]["state"] == "building"

    await launchers.start(site)
    await zuul.gone(node_id)
    (again,) = await zuul.building(request_id)
    await pod_there(admin, make_site.namespace(again))
    await admin.make_ready(make_site.namespace(again))
    await zuul.use_and_return(request_id)


# --- SIGUSR2 ---------------------------------------------------------------------------------


async def test_sigusr2_logs_waits_tasks_and_threads(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(
        manual_label(), namespace_label(), pool={"max-servers": 2}, top={"zookeeper-timeout": 8}
    )
    launcher = await launchers.spawn(site)
    ready = await zuul.submit("namespace")
    (ready_id,) = (await zuul.answered(ready))["nodes"]
    in_flight = await zuul.submit("pod")
    (node_id,) = await zuul.building(in_flight)
    await pod_there(admin, make_site.namespace(node_id))
    waiting = await zuul.submit("namespace")
    await eventually(lambda: f"{waiting} waits for quota" in launcher.text(), "it waits")

    launcher.send_signal(signal.SIGUSR2)
    await eventually(lambda: "MainThread" in launcher.text(), "the dump")
    text = launcher.text().partition("Dump of the launcher's state")[2]
    assert (
        f"Pool local/{make_site.pool}: waiting requests: 1; the first waits for quota: 2 of 2"
        in text
    )
    assert f"Request {waiting} in pool" in text
    assert re.search(rf"Node {node_id} \(pod\): waits for \S+", text)
    # Each coroutine of a task with its place, down to what it awaits.
    assert f"fulfil {in_flight}, awaits a " in text
    assert re.search(r"attempt\.py:\d+ KubernetesAttempt\._wait_for_pods", text)
    assert re.search(r"serve pool local/.*\n.*pool_queue\.py:\d+ PoolQueue\.run", text)
    assert re.search(r"MainThread\n", text)
    node = await zuul.node(ready_id)
    assert node is not None
    assert node["connection_port"]["token"] not in text
    # It goes on, and does so again.
    launcher.send_signal(signal.SIGUSR2)
    await eventually(lambda: launcher.text().count("Dump of the") == 2, "another dump")
    await admin.make_ready(make_site.namespace(node_id))
    for request_id in (ready, waiting, in_flight):
        await zuul.use_and_return(request_id)


# --- systemd ---------------------------------------------------------------------------------


class Systemd:
    """The listening end of a notification socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def listen(self) -> list[str]:
        while True:
            try:
                self.heard += self._socket.recv(65536).decode().split("\n")
            except BlockingIOError:
                return self.heard

    async def hears(self, *words: str) -> None:
        def check() -> bool:
            self.listen()
            missing = [word for word in words if not any(w.startswith(word) for w in self.heard)]
            assert not missing, (missing, self.heard)
            return True

        await eventually(check)

    async def hears_again(self, word: str) -> None:
        self.listen()
        before = self.heard.count(word)
        await eventually(lambda: self.listen().count(word) > before + 1, f"{word} again")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Systemd]:
    path = str(tmp_path / "notify")
    systemd = Systemd(path if request.param == "path" else f"@{uuid.uuid4().hex}")
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.address)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    yield systemd
    systemd.close()


async def test_systemd_is_notified_and_its_watchdog_is_fed(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, systemd: Systemd
) -> None:
    async with Proxy.to(make_site.cluster.zookeeper) as proxy:
        servers = [nodepool_yaml.server(proxy.address, make_site.chroot)]
        site = make_site(pod_label(), top={"zookeeper-servers": servers, "zookeeper-timeout": 30})
        launcher = await launchers.spawn(site)
        await systemd.hears("READY=1", "WATCHDOG=1", "STATUS=pools: 1, nodes: 0")
        request_id = await zuul.submit("pod")
        await zuul.answered(request_id)
        await systemd.hears("STATUS=pools: 1, nodes: 1 (1 ready)")
        # That ZooKeeper is away is no reason to be killed.
        await proxy.refuse()
        await systemd.hears("STATUS=Cannot serve: there is no connection to ZooKeeper")
        await systemd.hears_again("WATCHDOG=1")
        proxy.restore()
        await eventually(lambda: launcher.text().count("connection is connected") > 1, "it is back")
        await zuul.use_and_return(request_id)
        assert "STOPPING=1" not in systemd.listen()
        await launchers.return_nodes()
        assert await launcher.terminate() == 0
        await systemd.hears("STOPPING=1", "EXTEND_TIMEOUT_USEC=45000000")


async def test_systemd_is_told_of_a_reload(
    make_site: SiteMaker, launchers: Launchers, systemd: Systemd
) -> None:
    launcher = await launchers.spawn(make_site(pod_label()))
    await systemd.hears("READY=1")
    assert not [word for word in systemd.heard if word.startswith("RELOADING")]
    launcher.send_signal(signal.SIGHUP)
    await systemd.hears("RELOADING=1", "MONOTONIC_USEC=")
    await eventually(lambda: "READY=1" in systemd.listen()[systemd.heard.index("RELOADING=1") :])


async def test_systemd_is_not_told_ready_before_it_serves(
    make_site: SiteMaker, launchers: Launchers, systemd: Systemd
) -> None:
    site = make_site(pod_label(), top={"zookeeper-servers": [{"host": "127.0.0.1", "port": 1}]})
    launcher = launchers.spawn_unready(site)
    await systemd.hears("WATCHDOG=1", "STATUS=Cannot serve")
    assert launcher.status is None
    launcher.send_signal(signal.SIGTERM)
    assert await ended(launcher) == 0
    assert "READY=1" not in systemd.listen()


# --- what units and scripts use --------------------------------------------------------------


def refused(*options: str, status: int) -> str:
    """What a launcher says that does not even start."""
    command = [sys.executable, "-m", "nodepool_k8s", "launcher", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


async def test_the_pid_file_exists_while_one_launcher_runs(
    make_site: SiteMaker, launchers: Launchers, tmp_path: Path
) -> None:
    site = make_site(pod_label())
    path = tmp_path / "launcher.pid"
    path.write_text("1\n")  # Left by one that was killed.
    launcher = await launchers.spawn(site, "-p", str(path))
    assert path.read_text() == f"{launcher.pid}\n"
    told = await asyncio.to_thread(refused, "-c", str(site.path), "-p", str(path), status=1)
    assert f"belongs to a running launcher (process {launcher.pid})" in told
    assert await launcher.terminate() == 0
    assert not path.exists()
    missing = str(tmp_path / "none" / "launcher.pid")
    told = await asyncio.to_thread(refused, "-c", str(site.path), "-p", missing, status=1)
    assert missing in told


async def test_it_accepts_the_options_of_nodepools_launcher(
    make_site: SiteMaker, launchers: Launchers, tmp_path: Path
) -> None:
    secure = tmp_path / "secure.yaml"
    secure.write_text("")
    options = ["-s", str(secure), "-p", str(tmp_path / "pid"), "-f", "--no-webapp", "--repl"]
    launcher = await launchers.spawn(make_site(pod_label()), *options)
    assert "--repl has no effect" in launcher.text()
    # In the foreground: it is the process that was started, and it logs to standard error.
    assert (tmp_path / "pid").read_text() == f"{launcher.pid}\n"
    assert re.search(
        r"nodepool-k8s.* \d+\.\d+", await asyncio.to_thread(refused, "--version", status=0)
    )
