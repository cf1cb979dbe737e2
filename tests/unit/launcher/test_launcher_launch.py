"""One node from claimed to ready, with the driver in memory and no time passing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from nodepool_k8s.config.settings import Label, LaunchSettings, Pool, Provider
from nodepool_k8s.drivers.outcomes import (
    BackendTrouble,
    CapacityRefused,
    Failure,
    Permanent,
    Retryable,
)
from nodepool_k8s.errors import LaunchError, NotHeld
from nodepool_k8s.launcher.launch import Launch
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.launcher.launch_slots import CreateSlots
from nodepool_k8s.model import LabelType, Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.znodes.nodes import driver_data_of
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper.store import Store
from tests.fakes.driver import FakeBackend, FakeDelays, FakeDriver
from tests.support import virtualtime

REQUEST = NodeRequest("200-0000000001", RequestState.PENDING, ("pod",))
LABEL = Label("pod", LabelType.POD, launch=LaunchSettings(launch_timeout=60.0))
POOL = Pool("local", "main", {"pod": LABEL})
NODE = Node(
    "0000000007",
    NodeState.BUILDING,
    ("pod",),
    "local",
    "main",
    external_id="main/0000000007/0",
)


@dataclass
class Writes:
    """A store that keeps what was written."""

    written: list[Node] = field(default_factory=list)
    session_over: bool = False
    error: Exception | None = None

    async def write_node(self, held: HeldNode) -> HeldNode:
        if self.error is not None:
            raise self.error
        self.written.append(held.node)
        return held.evolve(version=held.node.version + 1)


class Observer:
    """The pool's queue, and who wants to know of failures."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.refused: list[bool] = []
        """Whether the backend's own quota refused launches, at each change of that."""
        self.slots = CreateSlots(self)

    def attempt_failed(self, request: NodeRequest, node: Node, reason: str) -> None:
        self.failed.append(reason)

    def progressed(self) -> None:
        pass

    def wake(self) -> None:
        self.refused.append(self.slots.refused)


@dataclass
class Bench:
    """One launch and everything around it."""

    launch: Launch
    backend: FakeBackend
    store: Writes
    observer: Observer

    @property
    def failed(self) -> list[str]:
        return self.observer.failed

    @property
    def refused(self) -> list[bool]:
        return self.observer.refused

    @property
    def node(self) -> Node:
        return self.launch.held.node

    @property
    def external_ids(self) -> list[str | None]:
        ids: list[str | None] = [NODE.external_id]
        for node in self.store.written:
            if node.external_id != ids[-1]:
                ids.append(node.external_id)
        return ids


async def a_bench(retries: int = 3) -> Bench:
    backend, store = FakeBackend(delays=FakeDelays(ready=5.0)), Writes()
    provider = Provider("local", None, (POOL,), launch_retries=retries)
    driver = FakeDriver(provider, "deployment", backend)
    await driver.start(cast(Any, None))
    observer = Observer()
    context = LaunchContext(
        provider,
        POOL,
        driver,
        cast(Store, store),
        "component",
        observer,
    )
    held = HeldNode(NODE, "/nodepool/nodes/0000000007/lock/x")
    launch = Launch(context, observer.slots, held, REQUEST)
    return Bench(launch, backend, store, observer)


def run(play: Callable[[], Awaitable[None]]) -> None:
    virtualtime.run(cast(Any, play()))


def test_a_node_becomes_ready() -> None:
    async def play() -> None:
        bench = await a_bench()
        await bench.launch.run()
        assert bench.node.state is NodeState.READY
        assert bench.node.extra["connection_port"]
        data = driver_data_of(bench.node)
        assert data["uid"]
        assert data["steps"].keys() == {"create", "ready"}
        assert bench.launch.is_ready()
        assert not bench.launch.written
        await bench.launch.write()
        assert bench.launch.written
        bench.backend.lose(bench.node.external_id or "")
        assert not bench.launch.is_ready()

    run(play)


def test_a_failed_attempt_is_removed_and_made_again() -> None:
    async def play() -> None:
        bench = await a_bench()
        bench.backend.failures.append(Retryable("it crashed", Failure.CRASHED))
        await bench.launch.run()
        assert bench.failed == ["it crashed"]
        assert bench.external_ids == ["main/0000000007/0", "main/0000000007/1"]
        assert set(bench.backend.objects) == {"main/0000000007/1"}

    run(play)


def test_attempts_are_used_up() -> None:
    async def play() -> None:
        bench = await a_bench(retries=2)
        for number in range(3):
            bench.backend.failures.append(Retryable(f"crash {number}", Failure.CRASHED))
        with pytest.raises(LaunchError, match="label pod: crash 1") as caught:
            await bench.launch.run()
        assert caught.value.failure == Failure.CRASHED
        assert bench.launch.failure == "crash 1"

    run(play)


def test_what_cannot_succeed_is_not_repeated() -> None:
    async def play() -> None:
        bench = await a_bench()
        bench.backend.refusals.append(Permanent("a bad image", Failure.IMAGE))
        with pytest.raises(LaunchError, match="a bad image"):
            await bench.launch.run()
        assert bench.failed == ["a bad image"]
        assert bench.backend.created == 0

    run(play)


def test_a_full_backend_uses_up_no_attempt() -> None:
    async def play() -> None:
        bench = await a_bench(retries=1)
        bench.backend.refusals.extend(CapacityRefused("full") for _ in range(5))
        await bench.launch.run()
        assert bench.node.state is NodeState.READY
        assert bench.refused == [True, False]
        assert bench.failed == []

    run(play)


def test_a_silent_backend_is_asked_again() -> None:
    async def play() -> None:
        bench = await a_bench(retries=1)
        bench.backend.refusals.extend(BackendTrouble("no answer") for _ in range(5))
        await bench.launch.run()
        assert bench.node.state is NodeState.READY
        assert bench.failed == []

    run(play)


def test_a_backend_silent_for_long_fails_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("nodepool_k8s.launcher.launch.time.monotonic", loop.time)
        bench = await a_bench(retries=1)
        bench.backend.refusals.extend(BackendTrouble("no answer") for _ in range(500))
        with pytest.raises(LaunchError, match="no answer") as caught:
            await bench.launch.run()
        assert caught.value.failure == Failure.API
        assert 60.0 <= loop.time() < 65.0

    run(play)


def test_a_removal_is_repeated_until_it_is_done() -> None:
    async def play() -> None:
        bench = await a_bench()
        bench.backend.failures.append(Retryable("it crashed", Failure.CRASHED))
        bench.backend.blocked.add("main/0000000007/0")
        running = asyncio.ensure_future(bench.launch.run())
        await asyncio.sleep(60.0)
        bench.backend.go_away()
        await asyncio.sleep(60.0)
        assert bench.external_ids == ["main/0000000007/0"]
        bench.backend.come_back()
        bench.backend.unblock("main/0000000007/0")
        await running
        assert set(bench.backend.objects) == {"main/0000000007/1"}

    run(play)


def test_a_launch_outlasts_a_backend_that_hangs() -> None:
    async def play() -> None:
        bench = await a_bench()
        bench.backend.hang()
        running = asyncio.ensure_future(bench.launch.run())
        await asyncio.sleep(30.0)
        assert not running.done()
        bench.backend.go_on()
        await running
        assert bench.node.state is NodeState.READY

    run(play)


def test_a_launch_without_its_lock_creates_nothing_more() -> None:
    async def play() -> None:
        bench = await a_bench()
        bench.store.error = NotHeld("the lock is not ours any more")
        with pytest.raises(NotHeld):
            await bench.launch.run()
        assert bench.node == replace(NODE)

    run(play)


def test_a_cancelled_launch_leaves_a_record_of_what_exists() -> None:
    async def play() -> None:
        bench = await a_bench()
        running = asyncio.ensure_future(bench.launch.run())
        await asyncio.sleep(1.0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert set(bench.backend.objects) == {bench.node.external_id}

    run(play)
