"""Leaks, stuck deletions and providers that were taken out, with the driver in memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from nodepool_k8s.config.settings import Provider, Settings, ZooKeeperServer, ZooKeeperSettings
from nodepool_k8s.launcher.intervals import Intervals
from nodepool_k8s.launcher.provider_upkeep import ProviderUpkeep
from nodepool_k8s.launcher.providers import Providers
from nodepool_k8s.launcher.tasks import Tasks
from nodepool_k8s.model import Node, NodeState, ProviderCluster
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.provider_clusters import ProviderClusters
from nodepool_k8s.zookeeper.store import Store
from tests.fakes.driver import FakeBackend, FakeDriver, FakeDriverFactory
from tests.support import virtualtime
from tests.support.crashes import NoCrash
from tests.support.mirrors import still_mirror

LOCAL = Provider("local", None, pools=())


@dataclass
class Records:
    """The node records as ZooKeeper has them."""

    nodes: dict[str, Node] = field(default_factory=dict)

    async def read_node(self, node_id: str) -> Node | None:
        return self.nodes.get(node_id)


@dataclass
class Known:
    """The provider clusters that are remembered."""

    clusters: set[ProviderCluster] = field(default_factory=set)

    async def all(self) -> list[ProviderCluster]:
        return sorted(self.clusters, key=repr)

    async def remember(self, cluster: ProviderCluster) -> None:
        self.clusters.add(cluster)

    async def forget(self, cluster: ProviderCluster) -> None:
        self.clusters.discard(cluster)


@dataclass
class Bench:
    """The upkeep of one backend."""

    upkeep: ProviderUpkeep
    providers: Providers
    backend: FakeBackend
    records: Records
    mirror: Mirror
    known: Known
    tasks: Tasks

    @property
    def driver(self) -> FakeDriver:
        return cast(FakeDriver, self.providers.open[0])


async def a_bench() -> Bench:
    backend, records, known, mirror = FakeBackend(), Records(), Known(), still_mirror()
    tasks = Tasks(NoCrash())
    providers = Providers(FakeDriverFactory(backend), tasks.spawn)
    await providers.begin("deployment")
    await providers.apply([LOCAL])
    await tasks.finished()
    settings = Settings(ZooKeeperSettings((ZooKeeperServer("localhost"),)), (LOCAL,), {})
    upkeep = ProviderUpkeep(
        settings,
        providers,
        cast(Store, records),
        mirror,
        cast(ProviderClusters, known),
        Intervals(),
    )
    return Bench(upkeep, providers, backend, records, mirror, known, tasks)


def run(play: Callable[[], Awaitable[None]]) -> None:
    virtualtime.run(cast(Any, play()))


def a_node(node_id: str, external_id: str) -> Node:
    return Node(node_id, NodeState.BUILDING, ("pod",), "local", "main", external_id=external_id)


def test_what_no_record_names_is_deleted() -> None:
    async def play() -> None:
        bench = await a_bench()
        bench.backend.leak("main/1/0", "1", "local", "deployment")
        bench.backend.leak("main/2/0", "2", "local", "deployment")
        bench.backend.leak("main/3/0", "3", "local", "another deployment")
        bench.records.nodes["2"] = a_node("2", "main/2/0")
        await bench.upkeep.step_for(bench.driver)
        going = {key for key, found in bench.backend.objects.items() if found.deleted_at}
        assert going == {"main/1/0"}

    run(play)


def test_a_record_that_is_not_heard_of_protects() -> None:
    async def play() -> None:
        bench = await a_bench()
        bench.backend.leak("main/1/0", "1", "local", "deployment")
        # The mirror lags; ZooKeeper itself has the record.
        bench.records.nodes["1"] = a_node("1", "main/1/0")
        await bench.upkeep.step_for(bench.driver)
        assert bench.backend.objects["main/1/0"].deleted_at is None

    run(play)


def test_an_earlier_attempt_has_leaked() -> None:
    async def play() -> None:
        bench = await a_bench()
        bench.backend.leak("main/1/0", "1", "local", "deployment")
        bench.records.nodes["1"] = a_node("1", "main/1/1")
        await bench.upkeep.step_for(bench.driver)
        assert bench.backend.objects["main/1/0"].deleted_at

    run(play)


def test_a_backend_that_is_away_is_no_reason_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        bench = await a_bench()
        driver = bench.driver
        bench.backend.go_away()
        await bench.upkeep.step_for(driver)
        assert "checking for leaks failed" in caplog.text

    run(play)


def test_a_stuck_deletion_is_told_with_what_holds_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def play() -> None:
        bench = await a_bench()
        bench.backend.leak("main/1/0", "1", "local", "deployment")
        bench.backend.blocked.add("main/1/0")
        await bench.upkeep.step_for(bench.driver)
        assert not bench.upkeep.stuck
        bench.backend.objects["main/1/0"].deleted_at = time.time() - 100
        for _ in range(3):
            await bench.upkeep.step_for(bench.driver)
        found = [(stuck.external_id, stuck.blockers) for stuck in bench.upkeep.stuck]
        assert found == [("main/1/0", ("a finalizer",))]
        told = [each for each in caplog.messages if "has not ended after" in each]
        assert len(told) == 1, "again only at twice the age"
        bench.backend.unblock("main/1/0")
        await bench.upkeep.step_for(bench.driver)
        assert not bench.upkeep.stuck

    run(play)


def test_a_served_backend_is_remembered() -> None:
    async def play() -> None:
        bench = await a_bench()
        await bench.upkeep.step_for(bench.driver)
        assert bench.known.clusters == {ProviderCluster("local", None, "fake-backend")}

    run(play)


def test_a_provider_that_is_taken_out_is_left_when_empty() -> None:
    async def play() -> None:
        bench = await a_bench()
        driver = bench.driver
        bench.backend.leak("main/1/0", "1", "local", "deployment")
        bench.records.nodes["1"] = a_node("1", "main/1/0")
        await bench.upkeep.step_for(driver)
        await bench.providers.apply([])
        without = Settings(ZooKeeperSettings((ZooKeeperServer("localhost"),)), (), {})
        bench.upkeep.reconfigure(without)
        await bench.upkeep.step_for(driver)
        assert bench.providers.retired == [driver]
        bench.backend.lose("main/1/0")
        await bench.upkeep.step_for(driver)
        assert bench.providers.retired == []
        assert bench.known.clusters == set()

    run(play)


def test_what_a_dead_launcher_left_elsewhere_is_connected_to() -> None:
    async def play() -> None:
        bench = await a_bench()
        bench.known.clusters.add(ProviderCluster("gone", "old-context", "fake-backend"))
        await bench.upkeep.connect_again()
        assert [driver.provider.name for driver in bench.providers.retired] == ["gone"]
        await bench.upkeep.connect_again()
        assert len(bench.providers.retired) == 1
        await bench.tasks.finished()

    run(play)
