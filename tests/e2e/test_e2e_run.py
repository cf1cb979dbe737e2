"""``nodepool-k8s run`` and the client on a real kubelet: streams, files and all endings."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nodepool_k8s.client import CommandFailed, CommandTimedOut, TransferFailed, connect
from tests.support.launchers import Launchers
from tests.support.site import IMAGE, Site, SiteMaker, namespace_label, pod_label, spec_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.e2e

PATIENCE_S = 90
ROOT = Path(__file__).parents[2]

# Records the peak of this program alone: the kernel's figure for children includes forks.
_PROGRAM = """
import atexit, os, pathlib
from nodepool_k8s import cli
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: pathlib.Path(os.environ["PEAK"]).write_text(status.read_text()))
cli.main()
"""


@dataclass
class Run:
    """A running ``nodepool-k8s run``."""

    process: subprocess.Popen[bytes]
    peak_file: Path

    async def end(self, stdin: bytes | None = b"") -> tuple[int, bytes, bytes]:
        """Wait for its end; its status, standard output and standard error."""
        out, err = await asyncio.to_thread(self.process.communicate, stdin, PATIENCE_S)
        return self.process.returncode, out, err

    async def says(self, text: str) -> None:
        """Wait until it has written the text to standard error."""
        assert self.process.stderr is not None
        descriptor = self.process.stderr.fileno()
        os.set_blocking(descriptor, False)
        said = b""

        def check() -> bool:
            nonlocal said
            with contextlib.suppress(BlockingIOError):
                said += os.read(descriptor, 65536)
            return text.encode() in said

        await eventually(check, f"it says {text!r}")
        os.set_blocking(descriptor, True)

    def peak_kib(self) -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", self.peak_file.read_text())
        assert found is not None
        return int(found[1])


@dataclass
class Runner:
    """Starts runs against a site, and ends them."""

    site: Site
    folder: Path
    runs: list[Run]

    def start(self, *arguments: str, **options: Any) -> Run:
        peak = self.folder / f"peak-{len(self.runs)}"
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "run", "--zookeeper", self.site.hosts, *arguments],
            **{
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "cwd": self.folder,
                "env": dict(os.environ, PEAK=str(peak)),
                **options,
            },
        )
        self.runs.append(Run(process, peak))
        return self.runs[-1]

    async def __call__(
        self, *arguments: str, stdin: bytes = b"", **options: Any
    ) -> tuple[int, bytes, bytes]:
        return await self.start(*arguments, **options).end(stdin)

    def end(self) -> None:
        for run in self.runs:
            if run.process.poll() is None:
                run.process.kill()
                run.process.wait()
            for stream in (run.process.stdin, run.process.stdout, run.process.stderr):
                if stream is not None:
                    stream.close()


@pytest.fixture
async def runner(
    make_site: SiteMaker, launchers: Launchers, tmp_path: Path, request: pytest.FixtureRequest
) -> Any:
    probed = {
        "name": "c",
        "image": IMAGE,
        "command": ["sleep", "600"],
        "readinessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1},
    }
    never = spec_label({"containers": [probed], "terminationGracePeriodSeconds": 0}, "never")
    labels = pod_label(), never, namespace_label(), pod_label("one", cpu=1)
    site = make_site(*labels, pool={"max-servers": 6, "max-cores": 1})
    await launchers.start(site)
    runner = Runner(site, tmp_path, [])
    yield runner
    runner.end()


async def nothing_left(zuul: Zuul) -> None:
    """Wait until no request and no node is left, except nodes that are being deleted."""

    async def check() -> bool:
        assert not await zuul.children("/nodepool/requests")
        assert set((await zuul.states()).values()) <= {"deleting"}
        return True

    await eventually(check, "no request and no node")


async def test_run_has_streams_and_status_of_the_command(runner: Runner, zuul: Zuul) -> None:
    script = "cat; echo $A >&2; exit 3"
    found = await asyncio.gather(
        runner("pod", "--env", "A=b c", "--", "sh", "-c", script, stdin=b"\0\xffin\n"),
        runner("pod", "-q", "--", "sh", "-c", "kill -KILL $$"),
        runner("pod", "-q", "--", "no-such-command"),
        runner("pod", "-q", "--timeout", "1s", "--", "sleep", "600"),
        runner("namespace", "-q", "--", "true"),
        runner("unknown", "-q", "--", "true"),
    )
    complete, killed, missing, late, namespace, unknown = found
    assert complete[:2] == (3, b"\0\xffin\n")
    *progress, last = complete[2].decode().splitlines()
    assert last == "b c"
    assert progress[-1].endswith(": fulfilled")
    assert any("launching in local/" in line for line in progress), progress
    assert killed == (137, b"", b"")
    assert (missing[0], b"not found" in missing[2]) == (127, True)
    assert late == (124, b"", b"nodepool-k8s: sleep did not end within 1 s\n")
    assert (namespace[0], b"namespace without a pod" in namespace[2]) == (65, True)
    assert (unknown[0], b"no pool has label unknown" in unknown[2]) == (69, True)
    await nothing_left(zuul)


async def test_directories_are_uploaded_and_downloaded(runner: Runner, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "data").write_bytes(random.randbytes(300_000))
    (source / "go").write_text("#!/bin/sh\nmkdir out; cp deep/er/data out/; pwd; exit 4\n")
    (source / "go").chmod(0o755)
    back = tmp_path / "back"
    back.mkdir()
    options = "-q", "--upload", str(source)
    (status, out, err), (other, where, _), lost, bare = await asyncio.gather(
        runner("pod", *options, "--download", "out", "--", "./go", cwd=back),
        runner("pod", *options, "--workdir", "/srv/here", "--", "pwd"),
        runner("pod", "-q", "--download", "nothing", "--", "true"),
        # An image without tar.
        runner("pod", *options, "--env", "PATH=/none", "--", "/bin/true"),
    )
    assert (status, err) == (4, b"")
    assert out.startswith(b"/tmp/")
    assert (back / "out" / "data").read_bytes() == (source / "deep" / "er" / "data").read_bytes()
    assert (other, where) == (0, b"/srv/here\n")
    assert (lost[0], b"cannot copy nothing from node" in lost[2]) == (74, True)
    assert bare[0] == 0


async def test_an_image_without_tar_is_reported(runner: Runner, tmp_path: Path) -> None:
    async with connect(runner.site.hosts) as session, session.node("pod") as node:
        await node.run(["sh", "-c", "mkdir /b; cp /bin/busybox /b/sh; mv /bin /gone"])
        with pytest.raises(TransferFailed, match=r"the image has no (tar|sh), which is required"):
            await node.upload(tmp_path)


SIZE = 100 * 2**20


async def test_a_hundred_megabytes_pass_through_a_command(runner: Runner, tmp_path: Path) -> None:
    data = random.randbytes(2**20)
    digest = hashlib.md5()
    with (tmp_path / "big").open("wb") as file:
        for number in range(SIZE // 2**20):
            piece = number.to_bytes(8, "big") + data[8:]
            digest.update(piece)
            file.write(piece)
    small = runner.start("pod", "-q", "--", "cat")
    assert (await small.end(b"some"))[:2] == (0, b"some")
    with (tmp_path / "big").open("rb") as there, (tmp_path / "back").open("wb") as back:
        big = runner.start("pod", "-q", "--", "cat", stdin=there, stdout=back)
        status, _, err = await big.end(None)
    assert (status, err) == (0, b"")
    assert (tmp_path / "back").stat().st_size == SIZE
    assert hashlib.md5((tmp_path / "back").read_bytes()).digest() == digest.digest()
    # Data is streamed, not kept: 8 MiB of it would fail this.
    assert big.peak_kib() - small.peak_kib() < 8 * 1024


async def test_ctrl_c_returns_the_node_in_every_phase(runner: Runner, zuul: Zuul) -> None:
    running = runner.start("one", "--", "sh", "-c", "echo on >&2; sleep 600")
    await running.says("\non\n")
    launching = runner.start("never", "--", "true")
    await launching.says("launching in local/")
    queued = runner.start("one", "--", "true")
    await queued.says("queued in local/")
    runs = [queued, launching, running]
    for run in runs:
        run.process.send_signal(signal.SIGINT)
    for run in runs:
        status, out, err = await run.end(None)
        assert (status, out) == (130, b""), err
        assert err.endswith(b"nodepool-k8s: interrupted\n")
    await nothing_left(zuul)


async def test_what_a_killed_run_leaves_is_reclaimed(runner: Runner, zuul: Zuul) -> None:
    running = runner.start("pod", "--", "sh", "-c", "echo on >&2; sleep 600")
    launching = runner.start("never", "--", "true")
    terminated = runner.start("pod", "--", "sh", "-c", "echo on >&2; sleep 600")
    await running.says("\non\n")
    await terminated.says("\non\n")
    await launching.says("launching in local/")
    terminated.process.terminate()
    for run in (running, launching):
        run.process.kill()
        run.process.wait()
    assert (await terminated.end(None))[0] == 143
    await nothing_left(zuul)


async def test_keep_on_failure_holds_the_node(runner: Runner, zuul: Zuul) -> None:
    keep = "--keep-on-failure", "--keep-for", "1h"
    (bad, _, err), (good, *_) = await asyncio.gather(
        runner("pod", "-q", *keep, "--", "false"), runner("pod", "-q", *keep, "--", "true")
    )
    assert (bad, good) == (1, 0)

    async def one_held() -> dict[str, Any] | None:
        nodes = [node for node in (await zuul.nodes()).items() if node[1]["state"] == "hold"]
        assert len(nodes) == 1
        return {"id": nodes[0][0], **nodes[0][1]}

    node = await eventually(one_held)
    assert (node["hold_expiration"], node["comment"]) == (3600, "run false")
    assert f"node {node['id']} is kept for 3600 s" in err.decode()


async def test_the_client_runs_commands_on_several_nodes_at_once(runner: Runner) -> None:
    async with connect(runner.site.hosts) as session, session.nodes("pod", "pod") as (one, two):
        assert one.id != two.id
        received: list[bytes] = []
        results = await asyncio.gather(
            one.run(["sh", "-c", "echo $X; pwd"], env={"X": "1"}, cwd="/tmp", check=True),
            two.run(["cat"], stdin="text"),
            two.run(["echo", "received"], stdout=received.append),
        )
        assert [result.stdout for result in results] == [b"1\n/tmp\n", b"text", b""]
        assert b"".join(received) == b"received\n"
        with pytest.raises(CommandFailed, match="ended with status 2: why") as caught:
            await one.run(["sh", "-c", "echo why >&2; exit 2"], check=True)
        assert caught.value.status == 2
        with pytest.raises(CommandTimedOut):
            await one.run(["sleep", "600"], timeout=0.3)


def examples() -> list[str]:
    page = (ROOT / "docs" / "client.md").read_text()
    return re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


async def test_the_documented_examples_run(runner: Runner, tmp_path: Path) -> None:
    assert len(examples()) >= 4
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "Makefile").write_text("all:\n")
    environ = {**os.environ, "NODEPOOL_K8S_ZOOKEEPER": runner.site.hosts}

    async def run(number: int, text: str) -> None:
        file = tmp_path / f"example-{number}.py"
        file.write_text(text)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "error", str(file)],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b""), (text, done)

    await asyncio.gather(*(run(*each) for each in enumerate(examples())))
