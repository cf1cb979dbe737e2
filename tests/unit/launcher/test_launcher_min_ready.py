"""How many spare nodes are asked for, by what has been heard of so far."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from nodepool_k8s.config.settings import (
    Label,
    Pool,
    Provider,
    Settings,
    TopLabel,
    ZooKeeperServer,
    ZooKeeperSettings,
)
from nodepool_k8s.launcher.min_ready import MinReady
from nodepool_k8s.model import MIN_READY, LabelType, Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Store
from tests.support.mirrors import still_mirror

LABEL = Label("pod", LabelType.POD, image="image")
SETTINGS = Settings(
    ZooKeeperSettings((ZooKeeperServer("localhost"),)),
    (Provider("local", None, (Pool("local", "main", {"pod": LABEL}),)),),
    {"pod": TopLabel("pod", min_ready=1)},
)
NODE = Node(
    "0000000007", NodeState.READY, ("pod",), "local", "main", requestor=MIN_READY, allocated_to="r"
)


class FakeStore:
    """ZooKeeper, which may know more than has been heard of."""

    def __init__(self, mirror: Mirror) -> None:
        self.nodes: dict[str, Node] = {}
        self.submitted: list[NodeRequest] = []
        self.deleted: list[str] = []
        self._mirror = mirror

    async def take_min_ready(self, label: str) -> bool:
        return True

    async def submit_spare(self, request: NodeRequest, priority: str) -> str:
        self.submitted.append(replace(request, id=f"{priority}-{len(self.submitted)}"))
        return self.submitted[-1].id

    async def delete_request(self, request_id: str) -> None:
        self.deleted.append(request_id)

    async def refresh_node(self, node_id: str) -> bool:
        if node_id in self.nodes:
            self._mirror.put_node(self.nodes[node_id])
        return node_id in self.nodes


class Bench:
    def __init__(self) -> None:
        self.mirror = still_mirror()
        self.store = FakeStore(self.mirror)
        self.min_ready = MinReady(SETTINGS, cast(Store, self.store), self.mirror)

    async def asked_and_answered(self) -> None:
        """Its request is fulfilled by another launcher; nothing else is heard of yet."""
        await self.min_ready.step()
        (request,) = self.store.submitted
        answer = replace(request, state=RequestState.FULFILLED, nodes=(NODE.id,))
        self.mirror.requests[request.id] = answer
        self.min_ready.request_changed(request.id, answer)


async def test_a_fulfilled_request_is_not_repeated_too_early() -> None:
    bench = Bench()
    await bench.asked_and_answered()
    bench.store.nodes[NODE.id] = NODE
    await bench.min_ready.step()
    assert len(bench.store.submitted) == len(bench.store.deleted) == 1


async def test_nor_one_whose_node_is_heard_of_as_it_was() -> None:
    bench = Bench()
    await bench.asked_and_answered()
    for state in (NodeState.INIT, NodeState.BUILDING):
        bench.mirror.put_node(replace(NODE, state=state))
        await bench.min_ready.step()
        assert (len(bench.store.submitted), bench.store.deleted) == (1, [])
    bench.mirror.put_node(NODE)
    await bench.min_ready.step()
    assert len(bench.store.submitted) == len(bench.store.deleted) == 1


async def test_a_node_that_is_gone_is_asked_for_again() -> None:
    bench = Bench()
    await bench.asked_and_answered()
    await bench.min_ready.step()
    assert len(bench.store.submitted) == 2
    assert len(bench.store.deleted) == 1
