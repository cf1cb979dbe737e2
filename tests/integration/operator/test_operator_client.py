"""The client without real pods: however its block ends, nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import struct
import termios
import threading
from collections.abc import Coroutine, Generator
from typing import Any

import pytest
from cluster import LocalCluster
from harness.requestor import REQUESTS

from nodepool_k8s.client import (
    NodeLost,
    NoZooKeeper,
    RequestFailed,
    WaitedTooLong,
    Waiting,
    blocking,
    connect,
)
from tests.support.commands import program, refused
from tests.support.launchers import Launchers
from tests.support.site import Site, SiteMaker, manual_label, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration


class CancelledAt:
    """Awaits a coroutine, and cancels its task when it waits for the ``number``th time."""

    def __init__(self, work: Coroutine[Any, Any, Any], number: int) -> None:
        self._work = work
        self._number = number
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._work.__await__()
        send: Any = lambda: next(steps)  # noqa: E731
        while True:
            try:
                waited_for = send()
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits == self._number:
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                value = yield waited_for
            except BaseException as error:
                send = lambda error=error: steps.throw(error)  # noqa: E731
            else:
                send = lambda value=value: steps.send(value)  # noqa: E731


async def nothing_left(zuul: Zuul) -> None:
    """Wait until no request, no lock and no allocated node is left."""

    async def check() -> bool:
        assert not await zuul.children(REQUESTS)
        for node_id, record in (await zuul.nodes()).items():
            assert record["state"] not in ("in-use", "building", "init"), record
            assert record["state"] != "ready" or record["allocated_to"] is None, record
            assert record["state"] != "ready" or not await zuul.children(
                f"/nodepool/nodes/{node_id}/lock"
            )
        return True

    await eventually(check, "nothing left of a cancelled client")


async def test_a_client_that_is_cancelled_anywhere_leaves_nothing(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), namespace_label(), pool={"max-servers": 8}))
    async with connect(make_site.hosts) as session:

        async def use() -> str:
            async with session.nodes("pod", "namespace") as (one, two):
                await asyncio.sleep(0)
                return f"{one.label} {two.label}"

        for number in range(1, 100):
            cancelled = CancelledAt(use(), number)

            async def run(cancelled: CancelledAt = cancelled) -> Any:
                return await cancelled

            try:
                ended = await asyncio.create_task(run())
            except asyncio.CancelledError:
                # The connection stays open, so its end does not release them.
                await nothing_left(zuul)
            else:
                assert ended == "pod namespace"
                if cancelled.waits < number:
                    break
        assert 5 < number < 100
    await nothing_left(zuul)


async def test_cancelling_a_connection_leaves_no_session(make_site: SiteMaker, zuul: Zuul) -> None:
    threads = threading.active_count()

    async def use() -> None:
        async with connect(make_site.hosts) as session, session.node("pod"):
            raise AssertionError("no launcher runs")

    for number in range(1, 30):
        cancelled = CancelledAt(use(), number)

        async def run(cancelled: CancelledAt = cancelled) -> Any:
            async with asyncio.timeout(5):
                return await cancelled

        try:
            await asyncio.create_task(run())
        except asyncio.CancelledError:
            pass
        except TimeoutError:
            assert number > 3
            break
        else:
            raise AssertionError("no node was expected")

        async def gone() -> bool:
            return not await zuul.children(REQUESTS)

        await eventually(gone, "no request")
    await eventually(lambda: threading.active_count() <= threads + 8, "kazoo's threads have ended")


async def test_waiting_reports_progress_and_times_out(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(manual_label(), pool={"max-servers": 1}))
    received: list[Waiting] = []
    async with connect(make_site.hosts) as session:
        holder = asyncio.create_task(_hold(session.node("pod")))
        (first,) = await eventually(lambda: zuul.children(REQUESTS))
        await zuul.building(first)
        with pytest.raises(WaitedTooLong, match=r"no node within 2 s: queued in local/"):
            async with session.node("pod", timeout=2, waiting=received.append):
                raise AssertionError("there is no room for it")
        holder.cancel()
        await asyncio.wait({holder})
    assert any(waiting.position == 1 and "quota" in waiting.text for waiting in received), received
    await nothing_left(zuul)


async def _on_terminal(site: Site, *arguments: str) -> str:
    """What the program writes to standard error if that is a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *program(), *arguments, stdin=asyncio.subprocess.DEVNULL, stderr=slave
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # Raised when the other end is closed.
        while piece := await asyncio.to_thread(os.read, master, 65536):
            shown += piece
    os.close(master)
    assert await process.wait() == 69
    return shown.decode()


async def _hold(node: Any) -> None:
    async with node:
        await asyncio.Event().wait()


async def test_a_request_that_fails_says_why(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label()))
    async with connect(make_site.hosts) as session:
        with pytest.raises(RequestFailed, match="no pool has label unknown"):
            async with session.node("unknown"):
                raise AssertionError("no pool has the label")
    await nothing_left(zuul)


async def test_the_end_of_the_session_loses_the_node(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label()))
    async with connect(make_site.hosts) as session, session.node("pod") as node:
        session._requestor.client.session.end()
        with pytest.raises(NodeLost, match="is lost: the ZooKeeper session ended"):
            await node.run(["true"])


async def test_a_missing_chroot_is_reported(make_site: SiteMaker) -> None:
    async with connect(f"{make_site.hosts}-not") as session:
        with pytest.raises(NoZooKeeper, match="does not exist in ZooKeeper; is the chroot"):
            async with session.node("pod"):
                raise AssertionError("there is nothing")


async def test_the_blocking_client_works_the_same(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), pod_label("other")))

    def use() -> list[str]:
        with blocking.nodes("pod", "other", zookeeper=make_site.hosts) as (one, two):
            with pytest.raises(ValueError, match="expected a list of arguments"):
                one.run("ls")
            return [one.label, two.label]

    assert await asyncio.to_thread(use) == ["pod", "other"]
    await nothing_left(zuul)


async def test_run_uses_tls_and_says_why_there_is_no_node(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, local_cluster: LocalCluster
) -> None:
    site = make_site(pod_label())
    await launchers.start(site)
    ca, cert, key = map(str, local_cluster.zookeeper_tls_files)
    where = ["--zookeeper", f"{local_cluster.zookeeper_tls}{make_site.chroot}"]
    files = ["--zookeeper-tls-ca", ca, "--zookeeper-tls-cert", cert, "--zookeeper-tls-key", key]
    output = await refused(site, "run", *where, *files, "unknown", "--", "true", status=69)
    assert "no pool has label unknown" in output
    shown = await _on_terminal(site, "run", "-c", str(site.path), "unknown", "--", "true")
    # In place: each text replaces the one before, and the last is the error.
    assert shown.startswith("\r\x1b[2Krequesting unknown\r\x1b[2K"), shown
    assert shown.rpartition("\x1b[2K")[2].startswith("nodepool-k8s: request 2"), shown
    await nothing_left(zuul)
