"""A claimed request until it ends, with records and a driver in memory, under virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from nodepool_k8s.config.settings import Label, Pool, Provider
from nodepool_k8s.drivers.outcomes import Failure, Permanent, Ready
from nodepool_k8s.launcher.delete import Deleter
from nodepool_k8s.launcher.fulfil import Fulfilment
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.launcher.launch_slots import CreateSlots, LaunchSlots
from nodepool_k8s.model import LabelType, Node, NodeRequest, NodeState, RequestState, Resources
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper.store import Claim, Store
from tests.fakes.driver import FakeBackend, FakeDelays, FakeDriver
from tests.fakes.store import LOCK, FakeStore
from tests.support import virtualtime

POOL = Pool("local", "main", {"pod": Label("pod", LabelType.POD)})
LOCAL = Provider("local", None, (POOL,), launch_retries=1)
REQUEST = NodeRequest("200-1", RequestState.PENDING, ("pod", "pod"), requestor="zuul")


def a_node(number: int, state: NodeState = NodeState.BUILDING) -> Node:
    return Node(
        str(number),
        state,
        ("pod",),
        "local",
        "main",
        external_id=f"main/{number}/0",
        allocated_to=REQUEST.id,
        claimed=Resources.of(instances=1),
    )


@dataclass
class Bench:
    """A request for two nodes that this launcher has claimed."""

    store: FakeStore = field(default_factory=FakeStore)
    backend: FakeBackend = field(default_factory=lambda: FakeBackend(delays=FakeDelays(ready=5.0)))
    deleted: dict[str, str] = field(default_factory=dict)
    """Why nodes were given to the deleter, by id."""
    slots: LaunchSlots = field(default_factory=lambda: LaunchSlots(LOCAL))

    def attempt_failed(self, request: NodeRequest, node: Node, reason: str) -> None:
        pass

    def progressed(self) -> None:
        pass

    def wake(self) -> None:
        pass

    def delete(self, held: HeldNode, reason: str) -> None:
        self.deleted[held.node.id] = reason

    async def claim(self, *nodes: Node) -> Fulfilment:
        for node in nodes:
            if node.state is NodeState.READY:
                self.backend.add(node.external_id or "", node.id, "local", "deployment")
        driver = FakeDriver(LOCAL, "deployment", self.backend)
        await driver.start(cast(Any, None))
        store = cast(Store, self.store)
        context = LaunchContext(LOCAL, POOL, driver, store, "component", self)
        request = self.store.put_request(REQUEST, locked=True)
        held = tuple(self.store.put_node(node, locked=True) for node in nodes)
        self.slots.launching = sum(node.state is NodeState.BUILDING for node in nodes)
        return Fulfilment(
            Claim(request, LOCK, held),
            context,
            self.slots,
            CreateSlots(self),
            self.store.mirror,
            cast(Deleter, self),
        )

    @property
    def request(self) -> NodeRequest:
        return self.store.requests[REQUEST.id]


def run(play: Callable[[], Awaitable[None]]) -> None:
    virtualtime.run(cast(Any, play()))


def test_request_is_fulfilled_with_unlocked_nodes() -> None:
    async def play() -> None:
        bench = Bench()
        await (await bench.claim(a_node(1), a_node(2))).run()
        assert bench.request.state is RequestState.FULFILLED
        assert bench.request.nodes == ("1", "2")
        assert {node.state for node in bench.store.nodes.values()} == {NodeState.READY}
        assert not bench.store.held
        assert bench.slots.launching == 0

    run(play)


def test_failed_launch_declines_and_frees_the_other_node() -> None:
    async def play() -> None:
        bench = Bench()
        bench.backend.delays = FakeDelays(create=1.0)
        fulfilment = await bench.claim(a_node(1, NodeState.READY), a_node(2))
        bench.backend.refusals.append(Permanent("a bad image", Failure.IMAGE))
        await fulfilment.run()
        assert bench.request.state is RequestState.FAILED
        assert bench.deleted == {"2": "a bad image"}
        assert bench.store.nodes["1"].allocated_to is None
        assert "1" not in bench.store.held

    run(play)


def test_abandoned_request_goes_back_to_requested() -> None:
    async def play() -> None:
        bench = Bench()
        fulfilment = await bench.claim(a_node(1), a_node(2))
        running = asyncio.ensure_future(fulfilment.run())
        await asyncio.sleep(1.0)
        fulfilment.abandon("the launcher stops")
        await running
        assert bench.request.state is RequestState.REQUESTED
        assert bench.deleted == dict.fromkeys(("1", "2"), "the launcher stops")
        assert bench.slots.launching == 0

    run(play)


def test_withdrawn_request_leaves_its_nodes_free() -> None:
    async def play() -> None:
        bench = Bench()
        running = asyncio.ensure_future((await bench.claim(a_node(1), a_node(2))).run())
        await asyncio.sleep(1.0)
        bench.store.delete_request(REQUEST.id)
        await running
        assert [node.allocated_to for node in bench.store.nodes.values()] == [None, None]
        assert not bench.deleted
        assert not bench.store.held

    run(play)


def test_reused_node_lost_meanwhile_gives_the_request_back() -> None:
    async def play() -> None:
        bench = Bench()
        bench.backend.delays = FakeDelays(ready=5.0)
        fulfilment = await bench.claim(a_node(1, NodeState.READY), a_node(2))
        running = asyncio.ensure_future(fulfilment.run())
        await asyncio.sleep(1.0)
        bench.backend.lose("main/1/0")
        await running
        assert bench.request.state is RequestState.REQUESTED
        assert set(bench.deleted) == {"1"}
        assert bench.store.nodes["2"].allocated_to is None

    run(play)


def test_reused_node_is_handed_over_with_its_changes() -> None:
    async def play() -> None:
        bench = Bench()
        bench.backend.reused = Ready(fields={"connection_port": {"token": "fresh"}})
        await (await bench.claim(a_node(1, NodeState.READY), a_node(2, NodeState.READY))).run()
        assert bench.request.state is RequestState.FULFILLED
        ports = [node.extra["connection_port"] for node in bench.store.nodes.values()]
        assert ports == [{"token": "fresh"}] * 2
        assert bench.backend.created == 2

    run(play)


def test_lost_node_is_not_reused() -> None:
    async def play() -> None:
        bench = Bench()
        fulfilment = await bench.claim(a_node(1, NodeState.READY), a_node(2, NodeState.READY))
        bench.backend.lose("main/2/0")
        await asyncio.sleep(0.1)
        await fulfilment.run()
        assert bench.request.state is RequestState.REQUESTED
        assert set(bench.deleted) == {"2"}

    run(play)


def test_changed_record_of_a_node_gives_the_request_back() -> None:
    async def play() -> None:
        bench = Bench()
        fulfilment = await bench.claim(a_node(1, NodeState.READY), a_node(2))
        running = asyncio.ensure_future(fulfilment.run())
        await asyncio.sleep(1.0)
        bench.store.put_node(replace(bench.store.nodes["1"], version=7))
        await running
        assert bench.request.state is RequestState.REQUESTED
        assert set(bench.deleted) == {"1"}

    run(play)
