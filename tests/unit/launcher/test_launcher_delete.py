"""What is due to be deleted or set free, when it changes before anybody looks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

from nodepool_k8s.config.settings import Settings, ZooKeeperServer, ZooKeeperSettings
from nodepool_k8s.errors import Vanished
from nodepool_k8s.launcher.clusters import Clusters
from nodepool_k8s.launcher.delete import Deleter
from nodepool_k8s.launcher.tasks import Tasks
from nodepool_k8s.model import Node, NodeState, Resources
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Store

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


async def test_a_node_that_goes_before_it_is_set_free_stops_nothing() -> None:
    crashed: list[tuple[str, BaseException]] = []
    tasks = Tasks(lambda task, error: crashed.append((task, error)))

    def never(_name: str, coroutine: Coroutine[Any, Any, None]) -> Any:
        coroutine.close()

    client = SimpleNamespace(on_event=lambda callback: None)
    mirror = Mirror(cast(ZooKeeperClient, client), never)
    mirror.put_node(NODE)
    store = GoneStore()
    settings = Settings(ZooKeeperSettings((ZooKeeperServer("localhost"),)), (), {})
    clusters = cast(Clusters, SimpleNamespace(of=lambda node: SimpleNamespace()))
    deleter = Deleter(settings, clusters, cast(Store, store), mirror, tasks)
    deleter.consider(NODE.id)
    assert deleter.under_way == {NODE.id}
    del mirror.nodes[NODE.id]
    await tasks.finished()
    assert not crashed
    assert store.asked == ["200-1", NODE.id]
    assert not deleter.under_way
