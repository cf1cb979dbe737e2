"""The regular pass over ZooKeeper, with records in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from nodepool_k8s.config.settings import Settings, ZooKeeperServer, ZooKeeperSettings
from nodepool_k8s.launcher.delete import Deleter
from nodepool_k8s.launcher.intervals import Intervals
from nodepool_k8s.launcher.provider_upkeep import ProviderUpkeep
from nodepool_k8s.launcher.upkeep import Upkeep
from nodepool_k8s.model import Component, Node, NodeRequest, NodeState, RequestState, Resources
from nodepool_k8s.zookeeper.store import Store
from tests.fakes.store import FakeStore

SETTINGS = Settings(ZooKeeperSettings((ZooKeeperServer("localhost"),)), (), {})
PENDING = NodeRequest("200-1", RequestState.PENDING, ("pod",))
READY = Node("7", NodeState.READY, ("pod",), "local", "main", claimed=Resources.of(instances=1))


@dataclass
class Bench:
    """An upkeep, and the parts of the deleter and of the store that it calls."""

    store: FakeStore = field(default_factory=FakeStore)
    considered: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    upkeep: Upkeep = field(init=False)

    def __post_init__(self) -> None:
        mine = cast(Any, self)
        store = cast(Store, self.store)
        self.upkeep = Upkeep(
            SETTINGS,
            cast(Deleter, mine),
            store,
            self.store.mirror,
            cast(ProviderUpkeep, mine),
            Intervals(),
        )

    def consider_nodes_of(self, request_id: str) -> None:
        self.considered.append(request_id)

    async def remove_unoffered(self, node_id: str, reason: str) -> None:
        self.removed.append(node_id)

    def has_moved(self, node: Node) -> bool:
        return False


async def test_pending_request_of_a_stopped_launcher_is_reset() -> None:
    bench = Bench()
    bench.store.put_request(PENDING)
    await bench.upkeep.reset_requests()
    assert bench.store.requests[PENDING.id].state is RequestState.REQUESTED
    assert bench.considered == [PENDING.id]


async def test_locked_request_is_not_reset() -> None:
    bench = Bench()
    bench.store.put_request(PENDING, locked=True)
    await bench.upkeep.reset_requests()
    assert bench.store.requests[PENDING.id] == PENDING


async def test_request_that_changed_meanwhile_is_not_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    bench.store.put_request(PENDING)
    changed = replace(PENDING, state=RequestState.FULFILLED, version=3)
    bench.store.requests[PENDING.id] = changed
    reread: list[str] = []
    monkeypatch.setattr(bench.store.mirror, "reread", reread.append)
    await bench.upkeep.reset_requests()
    assert bench.store.requests[PENDING.id] == changed
    assert reread == ["/nodepool/requests/200-1"]
    assert not bench.considered


async def test_node_is_removed_when_unoffered_at_two_passes() -> None:
    bench = Bench()
    bench.store.put_node(replace(READY, state_time=time.time()))
    await bench.upkeep.delete_unoffered_nodes()
    assert not bench.removed
    await bench.upkeep.delete_unoffered_nodes()
    assert bench.removed == [READY.id]


async def test_node_that_a_pool_offers_is_kept() -> None:
    bench = Bench()
    bench.store.put_node(READY)
    component = Component("1", "local", frozenset({"pod"}), pool="main")
    bench.store.mirror.components["1"] = component
    for _ in range(3):
        await bench.upkeep.delete_unoffered_nodes()
    assert not bench.removed
