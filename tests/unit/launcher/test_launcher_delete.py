"""What is due to be deleted or set free, when it changes before anybody looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nodepool_k8s.config.settings import Settings, ZooKeeperServer, ZooKeeperSettings
from nodepool_k8s.errors import Vanished
from nodepool_k8s.launcher.delete import Deleter
from nodepool_k8s.launcher.providers import Providers
from nodepool_k8s.launcher.tasks import Tasks
from nodepool_k8s.model import Node, NodeRequest, NodeState, RequestState, Resources
from nodepool_k8s.zookeeper.store import Store
from tests.support.mirrors import still_mirror

NODE = Node(
    "0000000007",
    NodeState.READY,
    ("pod",),
    "local",
    "main",
    allocated_to="200-1",
    claimed=Resources.of(instances=1),
)


class GoneStore:
    """By the time that it is asked, there is neither the request nor the node."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def read_request(self, request_id: str) -> None:
        self.asked.append(request_id)

    async def free_node(self, node_id: str, request: None, is_due: Callable[[Node], bool]) -> bool:
        self.asked.append(node_id)
        raise Vanished(node_id)


class Bench:
    """A deleter of one node that is ready, and whose request is gone."""

    def __init__(self, store: Any) -> None:
        self.crashed: list[tuple[str, BaseException]] = []
        self.tasks = Tasks(self)
        self.mirror = still_mirror()
        self.mirror.put_node(NODE)
        settings = Settings(ZooKeeperSettings((ZooKeeperServer("localhost"),)), (), {})
        providers = cast(Providers, SimpleNamespace(of=lambda node: SimpleNamespace()))
        self.deleter = Deleter(settings, providers, cast(Store, store), self.mirror, self.tasks)

    def task_crashed(self, task: str, error: BaseException) -> None:
        self.crashed.append((task, error))


async def test_a_node_that_goes_before_it_is_set_free_stops_nothing() -> None:
    store = GoneStore()
    bench = Bench(store)
    bench.deleter.consider(NODE.id)
    assert bench.deleter.under_way == {NODE.id}
    del bench.mirror.nodes[NODE.id]
    await bench.tasks.finished()
    assert not bench.crashed
    assert store.asked == ["200-1", NODE.id]
    assert not bench.deleter.under_way


class FasterStore:
    """By the time that it is asked, another launcher has set the node free and given it away."""

    def __init__(self, bench: Callable[[], Bench]) -> None:
        self.due: bool | None = None
        self._bench = bench

    async def read_request(self, request_id: str) -> None:
        assert request_id == "200-1"

    async def free_node(self, node_id: str, request: None, is_due: Callable[[Node], bool]) -> bool:
        self.due = is_due(replace(NODE, allocated_to="200-2", version=2))
        del self._bench().mirror.nodes[node_id]
        return self.due


async def test_a_node_with_a_new_owner_is_not_freed_for_the_old_one() -> None:
    store = FasterStore(lambda: bench)
    bench = Bench(store)
    # That the new owner was fulfilled is not heard of here yet.
    bench.mirror.requests["200-2"] = NodeRequest("200-2", RequestState.REQUESTED, ("pod",))
    bench.deleter.consider(NODE.id)
    await bench.tasks.finished()
    assert not bench.crashed
    assert store.due is False


class ReadyStore:
    """By the time that it is asked, a node that was being made is ready and nobody's."""

    def __init__(self, bench: Callable[[], Bench]) -> None:
        self.deleted: bool | None = None
        self._bench = bench

    async def take_node(self, node_id: str, change: Callable[[Node], Node | None]) -> None:
        self.deleted = change(replace(NODE, allocated_to=None, version=2)) is not None
        del self._bench().mirror.nodes[node_id]


async def test_a_ready_node_is_not_lost_because_a_watch_lags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Deleter, "_why_unusable", lambda self, node: "the pod is Pending")
    store = ReadyStore(lambda: bench)
    bench = Bench(store)
    # Its maker has let go of its lock already; that it is ready is not heard of yet.
    bench.mirror.put_node(replace(NODE, state=NodeState.BUILDING))
    bench.deleter.consider(NODE.id)
    await bench.tasks.finished()
    assert not bench.crashed
    assert store.deleted is False
