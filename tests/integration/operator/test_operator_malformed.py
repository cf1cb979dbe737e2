"""Thirty malformed inputs: each gets an error that says what is wrong, and changes nothing.

Configurations, znodes, HTTP requests and command lines, given to a launcher that has served a
request and goes on to serve another. All of ZooKeeper below the test's chroot and the
deployment's namespaces in the cluster are compared, before and after.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.requestor import NODES, REQUEST_LOCKS, REQUESTS
from kazoo.exceptions import NoNodeError

from tests.support.admin import Admin
from tests.support.launchers import Launchers, RunningLauncher
from tests.support.site import Site, SiteMaker, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

CONFIGURATIONS, ZNODES, HTTP, COMMANDS = "configuration", "znode", "HTTP request", "command line"


# --- a launcher at work --------------------------------------------------------------------------


@dataclass
class Bench:
    """A launcher that has served a request, and what can be done to it."""

    site: Site
    launcher: RunningLauncher
    zuul: Zuul
    admin: Admin
    caplog: pytest.LogCaptureFixture
    folder: Path
    pool: str

    async def serve(self) -> None:
        """The launcher serves a request, from its submission to the node's end."""
        request_id = await self.zuul.submit("pod")
        request = await self.zuul.answered(request_id)
        await self.zuul.use_and_return(request_id)
        await self.zuul.gone(*request["nodes"])

    async def state(self) -> tuple[dict[str, bytes], list[str]]:
        """Every znode with its content, and every namespace of the deployment."""
        znodes = await asyncio.to_thread(self._tree)
        deployment = await self.zuul.deployment()
        namespaces = await self.admin.namespaces(deployment)
        return znodes, sorted(entry["metadata"]["name"] for entry in namespaces)

    def _tree(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        left = ["/"]
        while left:
            path = left.pop()
            try:
                data, stat = self.zuul.kazoo.get(path)
                names = self.zuul.kazoo.get_children(path)
            except NoNodeError:
                continue
            # The empty lock of a request that is gone is upkeep's to remove, at its own time.
            if not (path.startswith(f"{REQUEST_LOCKS}/") and not names and not stat.ephemeralOwner):
                found[path] = data
            left += [f"{path.rstrip('/')}/{name}" for name in names]
        return found

    def warnings(self) -> str:
        return "\n".join(r.getMessage() for r in self.caplog.records if r.levelname == "WARNING")

    async def reload(self, content: bytes) -> str:
        """The launcher's own file becomes another and it is asked to read it; its errors."""
        good, settings = self.site.path.read_bytes(), self.launcher.launcher.settings

        def lines(level: str) -> list[str]:
            return [r.getMessage() for r in self.caplog.records if r.levelname == level]

        self.site.path.write_bytes(content)
        try:
            self.launcher.launcher.reload()
            await eventually(lambda: len(lines("ERROR")) > 1, "the launcher names what is wrong")
        finally:
            self.site.path.write_bytes(good)
        assert self.launcher.launcher.settings is settings
        await self.serve()
        return "\n".join(lines("ERROR"))

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Run the program; its status, and what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "nodepool_k8s",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "250"},
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()


@pytest.fixture
async def bench(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> Bench:
    # With every section that an input below makes wrong.
    limits = {"max-servers": 4, "max-cores": 8, "max-ram": 8192}
    site = make_site(pod_label(cpu=1, memory=256), pool=limits)
    launcher = await launchers.start(site)
    bench = Bench(site, launcher, zuul, admin, caplog, tmp_path, make_site.pool)
    await bench.serve()

    async def settled() -> bool:
        _, namespaces = await bench.state()
        return not namespaces

    await eventually(settled, "the namespace of the first node gone")
    return bench


# --- how each kind is given ----------------------------------------------------------------------

Given = Callable[[Bench], Awaitable[str]]
"""Gives an input, and returns all that was said about it."""


@dataclass(frozen=True)
class Input:
    """One malformed input."""

    kind: str
    name: str
    told: tuple[str, ...]
    """What an error about it has to say: where, what was expected, what to do."""
    give: Given

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def configuration(name: str, change: Callable[[bytes], bytes], *told: str) -> Input:
    """A changed configuration: config-validate names what is wrong, no launcher starts on it.

    And the running one keeps to its own when it is asked to read that.
    """

    async def give(bench: Bench) -> str:
        path = bench.folder / "malformed.yaml"
        content = change(bench.site.path.read_bytes())
        assert content != bench.site.path.read_bytes(), "the input is not malformed"
        path.write_bytes(content)
        said = []
        for command in ("config-validate", "launcher"):
            status, out = await bench.run(command, "-c", str(path))
            assert status == 1, out
            assert path.name in out
            said.append(out)
        said.append(await bench.reload(content))
        checked, *others = said
        for words in told:
            assert all(words in each for each in others)
        return checked

    return Input(CONFIGURATIONS, name, told, give)


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old.encode(), new.encode(), 1)


def znode(name: str, path: str, data: bytes, *told: str) -> Input:
    """A znode that somebody wrote; it is passed over with a warning, and stays as it is."""

    async def give(bench: Bench) -> str:
        before = bench.warnings()
        made = await bench.zuul.create(path, data, sequence=True)
        await eventually(lambda: made in bench.warnings(), f"a warning about {made}")
        said = bench.warnings().removeprefix(before)
        assert said.count(f"{made}:") == 1
        # And the launcher goes on while it is there, and leaves it alone.
        await bench.serve()
        assert (await bench.zuul.do(bench.zuul.kazoo.get, made))[0] == data
        await bench.zuul.delete(made)
        return said

    return Input(ZNODES, name, told, give)


async def spoil_a_ledger(bench: Bench) -> str:
    path = f"/nodepool-k8s/ledger/local/{bench.pool}"
    good, _ = await bench.zuul.do(bench.zuul.kazoo.get, path)
    await bench.zuul.put(path, b"\xff\xfe{")
    await bench.serve()
    # It is recounted from the records, with the same result.
    made = await bench.zuul.get(path)
    assert made is not None
    assert made["claimed"] == json.loads(good)["claimed"]
    await bench.zuul.put(path, good)
    return bench.warnings()


async def spoil_a_lock(bench: Bench) -> str:
    request_id = await bench.zuul.submit("pod")
    (node_id,) = (await bench.zuul.answered(request_id))["nodes"]
    lock = f"{NODES}/{node_id}/lock"
    await bench.zuul.do(bench.zuul.kazoo.ensure_path, lock)
    # Nobody who contends for a lock is named so, and it has no session that it would end with.
    await bench.zuul.create(f"{lock}/\u00fc-9", b"\x00\xff")
    status, said = await bench.run("delete", "-c", str(bench.site.path), node_id)
    assert status == 1, said
    node = await bench.zuul.node(node_id)
    assert node is not None
    assert node["state"] == "ready"
    await bench.serve()
    await bench.zuul.delete(f"{lock}/\u00fc-9")
    await bench.zuul.use_and_return(request_id)
    await bench.zuul.gone(node_id)
    return said


def http(name: str, status: int, request: bytes, *told: str) -> Input:
    """A request on a connection of its own, byte by byte as it is."""

    async def give(bench: Bench) -> str:
        web = bench.launcher.launcher.web
        assert web is not None
        await eventually(lambda: web.address, "the web server listens")
        assert web.address is not None
        reader, writer = await asyncio.open_connection(*web.address)
        try:
            writer.write(request)
            await writer.drain()
            async with asyncio.timeout(20):
                answer = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
        head, _, body = answer.decode().partition("\r\n\r\n")
        assert head.split()[1] == str(status), answer
        assert "Traceback" not in body
        return body

    return Input(HTTP, name, told, give)


def get(target: str, *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: launcher", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def command(name: str, status: int, arguments: tuple[str, ...], *told: str) -> Input:
    """A command line; FILE stands for the site's configuration."""

    async def give(bench: Bench) -> str:
        given = [str(bench.site.path) if word == "FILE" else word for word in arguments]
        found, out = await bench.run(*given)
        assert found == status, out
        assert "Traceback" not in out
        return out

    return Input(COMMANDS, name, told, give)


# --- the thirty ----------------------------------------------------------------------------------


def _wrong_node() -> bytes:
    return json.dumps({"state": ["ready"], "type": {}, "resources": [], "pool": 5}).encode()


INPUTS = (
    configuration("no YAML", lambda c: c + b"\nlabels: [", ".yaml:", "expected"),
    configuration("bytes that are no text", lambda c: b"\x00\xff" + c, "not UTF-8"),
    configuration("nothing", lambda c: b"", "is empty", "expected a mapping with"),
    configuration("a list", lambda c: b"- zookeeper-servers\n", "expected a mapping"),
    configuration("endless nesting", lambda c: b"labels: " + b"[" * 50_000, "more than 100 levels"),
    configuration(
        "the same key twice",
        lambda c: c + b"labels: []\n",
        "labels",
        "is here twice, first on line",
        "remove one",
    ),
    configuration(
        "an option that does not exist",
        replaced("max-servers", "max-server"),
        "pools[0]",
        "max-server",
        "did you mean 'max-servers'?",
    ),
    configuration(
        "a quantity with a unit",
        replaced("memory: 256", "memory: 4Gi"),
        "providers[0].pools[0].labels[0].memory",
        "found '4Gi'",
        "write 4096",
    ),
    configuration(
        "a label that is not there",
        replaced("labels:\n- name: pod\n", "labels:\n- name: pot\n"),
        "providers[0].pools[0].labels[0].name",
        "pod",
    ),
    configuration(
        "a limit below its request",
        replaced("cpu: 1", "cpu: 2\n      cpu-limit: 1"),
        "cpu-limit",
        "2",
    ),
    znode("a request of binary junk", f"{REQUESTS}/200-", bytes(range(256)), REQUESTS, "JSON"),
    znode("a request nested without end", f"{REQUESTS}/200-", b"[" * 100_000, REQUESTS, "JSON"),
    znode(
        "a huge request of no known state",
        f"{REQUESTS}/200-",
        b'{"state": "dreaming", "node_types": ["pod"], "filling": "' + b"x" * 900_000 + b'"}',
        REQUESTS,
        "dreaming",
    ),
    znode("a request that is empty", f"{REQUESTS}/200-", b"", REQUESTS, "empty"),
    znode("a node that is no JSON", f"{NODES}/", b"{state: ready", NODES, "JSON"),
    znode("a node of wrong types", f"{NODES}/", _wrong_node(), NODES, "state"),
    Input(
        ZNODES,
        "a ledger of binary junk",
        ("/nodepool-k8s/ledger/local/", "Recounting ledger"),
        spoil_a_ledger,
    ),
    Input(ZNODES, "a lock with a child that nobody made", ("is locked",), spoil_a_lock),
    http("a format that there is not", 406, get("/node-list", "Accept: image/png"), "image/png"),
    http("a field that there is not", 400, get("/node-list?fields=secrets"), "unknown field"),
    http("a node id that is a path", 400, get("/node-list?node_id=../../etc"), "a node's id"),
    http("a method that changes things", 405, get("/node-list", method="DELETE"), "read-only"),
    http("a path that there is not", 404, get("/../../etc/passwd"), "there are:", "/node-list"),
    http("a header without end", 400, get("/node-list", f"X: {'x' * 100_000}"), "8190"),
    command("a command that there is not", 2, ("lunch",), "no such command", "Did you mean"),
    command("no label", 2, ("request", "-c", "FILE"), "LABEL", "--help"),
    command(
        "a node that there is not", 1, ("delete", "-c", "FILE", "0000099999"), "0000099999", "list"
    ),
    command("a node id that is a path", 2, ("delete", "-c", "FILE", "../requests"), "../requests"),
    command(
        "a negative time",
        2,
        ("launcher", "-c", "FILE", "--drain-timeout", "-5"),
        "--drain-timeout",
        "x>=0",
    ),
    command(
        "a configuration that is not there",
        1,
        ("list", "-c", "/nonexistent/nodepool.yaml"),
        "/nonexistent/nodepool.yaml",
    ),
)


def test_there_are_thirty_of_four_kinds() -> None:
    counts = dict.fromkeys((CONFIGURATIONS, ZNODES, HTTP, COMMANDS), 0)
    for entry in INPUTS:
        counts[entry.kind] += 1
    assert list(counts.values()) == [10, 8, 6, 6]
    assert len({str(entry) for entry in INPUTS}) == 30
    assert all(entry.told for entry in INPUTS)


@pytest.mark.parametrize("malformed", INPUTS, ids=str)
async def test_a_malformed_input_changes_nothing(bench: Bench, malformed: Input) -> None:
    before = await bench.state()
    said = await malformed.give(bench)
    for words in malformed.told:
        assert words in said

    async def unchanged() -> bool:
        assert await bench.state() == before
        return True

    # What the launcher served meanwhile is on its way out.
    await eventually(unchanged, "ZooKeeper and the cluster as they were", timeout=10)
    assert not bench.launcher.task.done()
    await bench.serve()
