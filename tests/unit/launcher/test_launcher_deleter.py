"""The deleter with records and a driver in memory, under virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from nodepool_k8s.config.settings import (
    Label,
    Pool,
    Provider,
    Settings,
    ZooKeeperServer,
    ZooKeeperSettings,
)
from nodepool_k8s.launcher.delete import Deleter
from nodepool_k8s.launcher.providers import Providers
from nodepool_k8s.launcher.tasks import Tasks
from nodepool_k8s.model import LabelType, Node, NodeRequest, NodeState, RequestState, Resources
from nodepool_k8s.zookeeper.store import Store
from tests.fakes.driver import FakeBackend, FakeDelays, FakeDriverFactory
from tests.fakes.store import FakeStore
from tests.support import virtualtime

EXTERNAL_ID = "main/0000000007/0"
READY = Node(
    "0000000007",
    NodeState.READY,
    ("pod",),
    "local",
    "main",
    external_id=EXTERNAL_ID,
    claimed=Resources.of(instances=1),
)
USED = replace(READY, state=NodeState.USED)
POOL = Pool("local", "main", {"pod": Label("pod", LabelType.POD)})
LOCAL = Provider("local", None, (POOL,))
SETTINGS = Settings(ZooKeeperSettings((ZooKeeperServer("localhost"),)), (LOCAL,), {})


@dataclass
class Bench:
    """One node of one provider, which the backend has."""

    deleter: Deleter
    store: FakeStore
    backend: FakeBackend
    tasks: Tasks

    def task_crashed(self, task: str, error: BaseException) -> None:
        pytest.fail(f"{task}: {error!r}")

    @property
    def is_gone(self) -> bool:
        return not self.store.nodes and not self.backend.objects


async def a_bench(node: Node, *, delete: float = 2.0, lag: float = 0.0) -> Bench:
    backend = FakeBackend(delays=FakeDelays(delete=delete, lag=lag))
    bench = Bench(cast(Any, None), FakeStore(), backend, cast(Any, None))
    bench.tasks = Tasks(bench)
    providers = Providers(FakeDriverFactory(backend), bench.tasks.spawn)
    await providers.begin("deployment")
    await providers.apply([LOCAL])
    await bench.tasks.finished()
    backend.add(EXTERNAL_ID, node.id, "local", "deployment")
    store = cast(Store, bench.store)
    bench.deleter = Deleter(SETTINGS, providers, store, bench.store.mirror, bench.tasks)
    bench.store.put_node(node)
    return bench


def run(play: Callable[[], Awaitable[None]]) -> None:
    virtualtime.run(cast(Any, play()))


def test_record_is_removed_after_the_objects() -> None:
    async def play() -> None:
        bench = await a_bench(USED)
        bench.deleter.consider(USED.id)
        await asyncio.sleep(1.0)
        assert bench.store.nodes[USED.id].state is NodeState.DELETING
        assert bench.deleter.under_way == {USED.id}
        await bench.tasks.finished()
        assert bench.is_gone
        assert not bench.deleter.under_way

    run(play)


def test_deletion_outlasts_an_absent_backend(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        bench = await a_bench(USED)
        bench.backend.go_away()
        bench.deleter.consider(USED.id)
        await asyncio.sleep(120.0)
        assert not bench.is_gone
        bench.backend.come_back()
        await bench.tasks.finished()
        assert bench.is_gone
        warnings = [each for each in caplog.messages if "failed, trying again" in each]
        assert len(warnings) == 1

    run(play)


def test_stuck_deletion_is_reported_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        bench = await a_bench(USED)
        bench.backend.blocked.add(EXTERNAL_ID)
        bench.deleter.consider(USED.id)
        await asyncio.sleep(59.0)
        assert not bench.deleter.stuck
        await asyncio.sleep(240.0)
        assert bench.deleter.stuck == {USED.id: "a finalizer"}
        assert caplog.text.count("keeps its slot") == 1
        assert USED.id in bench.store.nodes
        bench.backend.unblock(EXTERNAL_ID)
        await bench.tasks.finished()
        assert bench.is_gone
        assert not bench.deleter.stuck

    run(play)


def test_lost_ready_node_is_deleted() -> None:
    async def play() -> None:
        bench = await a_bench(READY)
        await asyncio.sleep(0.1)
        bench.deleter.consider(READY.id)
        assert not bench.deleter.under_way
        bench.backend.lose(EXTERNAL_ID)
        await asyncio.sleep(0.1)
        bench.deleter.consider(READY.id)
        await bench.tasks.finished()
        assert bench.is_gone

    run(play)


def test_node_that_a_watch_lacks_is_not_lost() -> None:
    async def play() -> None:
        bench = await a_bench(READY, lag=0.5)
        bench.deleter.consider(READY.id)
        assert bench.deleter.under_way == {READY.id}
        await bench.tasks.finished()
        assert bench.store.nodes[READY.id] == READY

    run(play)


def test_absent_backend_has_lost_nothing() -> None:
    async def play() -> None:
        bench = await a_bench(READY, lag=1000.0)
        bench.backend.go_away()
        bench.deleter.consider(READY.id)
        await asyncio.sleep(60.0)
        assert bench.store.nodes[READY.id] == READY
        bench.deleter.close()
        await bench.tasks.cancel()

    run(play)


def test_locked_node_is_left_alone() -> None:
    async def play() -> None:
        bench = await a_bench(USED)
        bench.store.put_node(USED, locked=True)
        bench.deleter.consider(USED.id)
        assert not bench.deleter.under_way
        bench.store.unlock(USED.id)
        bench.deleter.consider(USED.id)
        await bench.tasks.finished()
        assert bench.is_gone

    run(play)


def test_contended_node_is_removed_once_it_is_unlocked() -> None:
    async def play() -> None:
        bench = await a_bench(USED)
        bench.store.contended.add(USED.id)
        bench.deleter.consider(USED.id)
        await bench.tasks.finished()
        assert bench.store.nodes[USED.id].state is NodeState.DELETED
        bench.store.contended.clear()
        bench.store.unlock(USED.id)
        bench.deleter.consider(USED.id)
        await bench.tasks.finished()
        assert bench.is_gone

    run(play)


def test_ready_node_of_a_deleted_request_is_freed() -> None:
    async def play() -> None:
        bench = await a_bench(READY)
        await asyncio.sleep(0.1)
        bench.store.put_node(replace(READY, allocated_to="200-1"))
        bench.deleter.consider(READY.id)
        await bench.tasks.finished()
        assert bench.store.nodes[READY.id].allocated_to is None
        assert EXTERNAL_ID in bench.backend.objects

    run(play)


def test_node_of_a_claimed_request_is_not_freed() -> None:
    async def play() -> None:
        bench = await a_bench(READY)
        await asyncio.sleep(0.1)
        bench.store.put_request(NodeRequest("200-1", RequestState.PENDING, ("pod",)))
        bench.store.put_node(replace(READY, allocated_to="200-1"))
        bench.deleter.consider(READY.id)
        assert not bench.deleter.under_way

    run(play)


def test_spare_node_is_removed_unless_it_is_held() -> None:
    async def play() -> None:
        bench = await a_bench(READY)
        bench.store.put_node(READY, locked=True)
        assert not await bench.deleter.remove_spare(READY, "its room is needed")
        bench.store.unlock(READY.id)
        assert await bench.deleter.remove_spare(READY, "its room is needed")
        assert await bench.deleter.remove_spare(READY, "its room is needed")
        await bench.tasks.finished()
        assert bench.is_gone

    run(play)


def test_held_node_is_deleted_when_its_hold_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        loop = asyncio.get_running_loop()
        bench = await a_bench(replace(READY, state=NodeState.HOLD, state_time=1000.0))
        monkeypatch.setattr(time, "time", lambda: 1000.0 + loop.time())
        bench.deleter.reconfigure(replace(SETTINGS, max_hold_age=300.0))
        bench.deleter.consider(READY.id)
        await asyncio.sleep(299.0)
        assert bench.store.nodes[READY.id].state is NodeState.HOLD
        await asyncio.sleep(10.0)
        assert bench.is_gone

    run(play)


def test_closed_deleter_begins_nothing() -> None:
    async def play() -> None:
        bench = await a_bench(USED)
        bench.deleter.close()
        bench.deleter.consider(USED.id)
        assert not bench.deleter.under_way

    run(play)
