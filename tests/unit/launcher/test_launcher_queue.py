"""A pool's queue on its own: whose turn it is, and when it waits. The store only notes down."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from nodepool_k8s.config.settings import Label, Pool, Provider
from nodepool_k8s.errors import ConnectionLost, Held, NodepoolK8sError, Outdated, SessionLost
from nodepool_k8s.launcher.requests import Capacity, PoolQueue
from nodepool_k8s.model import (
    Component,
    LabelType,
    Ledger,
    Node,
    NodeRequest,
    RequestState,
    Resources,
)
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.ledger import AtQuota, Fits
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Claim, HeldNode, Store

ME = "me"


class NoClient:
    """What a mirror needs of a connection when nothing happens on it."""

    def on_event(self, callback: Callable[[str, str], None]) -> None:
        pass


@dataclass
class FakeStore:
    """Claims as long as the ledger has room; fails next with what a test says."""

    claimed: list[str] = field(default_factory=list)
    rewritten: list[NodeRequest] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)
    dropped: int = 0
    used: Resources = field(default_factory=Resources)
    errors: list[NodepoolK8sError] = field(default_factory=list)

    @property
    def ledgers(self) -> FakeStore:
        return self

    async def require_room(self, pool: tuple[str, str], fits: Fits) -> None:
        if not fits(self.used):
            raise AtQuota

    async def draft_nodes(self, drafts: Sequence[Node]) -> list[Node]:
        return [replace(draft, id=f"{number:010}") for number, draft in enumerate(drafts)]

    async def drop_drafts(self, drafts: Sequence[Node]) -> None:
        self.dropped += len(drafts)

    async def claim(
        self, request: NodeRequest, nodes: Sequence[Node], pool: tuple[str, str], fits: Fits
    ) -> Claim:
        if self.errors:
            raise self.errors.pop(0)
        assert request.state is RequestState.PENDING
        self.claimed.append(request.id)
        self.used += sum((node.claimed for node in nodes if node.claimed), Resources())
        return Claim(request, "lock", tuple(HeldNode(node, "lock") for node in nodes))

    async def rewrite_request(self, request: NodeRequest) -> NodeRequest:
        self.rewritten.append(request)
        return request

    async def update_component(self, path: str, component: Component) -> None:
        self.components.append(component)


@dataclass
class Bench:
    """A queue with everything around it."""

    queue: PoolQueue
    store: FakeStore
    mirror: Mirror
    rereads: list[str]

    def add(self, request_id: str, *labels: str, **changes: Any) -> None:
        """A request appears, or changes."""
        fields: dict[str, Any] = {"state": RequestState.REQUESTED, **changes}
        request = NodeRequest(request_id, node_types=labels or ("pod",), **fields)
        self.mirror.requests[request_id] = request
        self.queue.offer(request_id)

    def remove(self, request_id: str) -> None:
        del self.mirror.requests[request_id]
        self.queue.offer(request_id)

    def register(self, identity: str, *labels: str, **changes: Any) -> None:
        component = Component(identity, "theirs", frozenset(labels), **changes)
        self.mirror.components[identity] = component
        self.queue.components_changed()


def a_bench(max_servers: int | None = None, max_concurrency: int | None = None) -> Bench:
    labels = {"pod": Label("pod", LabelType.POD, image="x")}
    limits = {} if max_servers is None else {"instances": max_servers * 1000}
    pool = Pool("local", "main", labels, limits=limits)
    rereads: list[str] = []

    def spawn(name: str, coroutine: Coroutine[Any, Any, None]) -> Any:
        rereads.append(name)
        coroutine.close()

    mirror = Mirror(cast(ZooKeeperClient, NoClient()), spawn)
    component = Component(ME, "local", frozenset(labels))
    mirror.components[ME] = component
    store = FakeStore()
    capacity = Capacity(Provider("local", None, (pool,), max_concurrency=max_concurrency))
    queue = PoolQueue(
        pool, component, capacity, cast(Store, store), mirror, lambda _queue, _claim: None
    )
    queue.component_path = "/component"
    return Bench(queue, store, mirror, rereads)


async def test_requests_are_claimed_in_order() -> None:
    bench = a_bench()
    bench.add("300-0000000001")
    bench.add("200-0000000003", relative_priority=2)
    bench.add("200-0000000004", relative_priority=1)
    bench.add("100-0000000009")
    await bench.queue.step()
    assert bench.store.claimed == [
        *("100-0000000009", "200-0000000004", "200-0000000003", "300-0000000001"),
    ]


async def test_a_claimed_request_is_not_claimed_again() -> None:
    bench = a_bench()
    bench.add("200-0000000001")
    await bench.queue.step()
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]


async def test_a_revised_request_changes_its_place() -> None:
    bench = a_bench()
    bench.add("200-0000000001", relative_priority=1)
    bench.add("200-0000000002", relative_priority=1)
    bench.add("200-0000000001", relative_priority=2)
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000002", "200-0000000001"]


async def test_a_request_that_went_is_forgotten() -> None:
    bench = a_bench()
    bench.add("200-0000000001")
    bench.remove("200-0000000001")
    await bench.queue.step()
    assert not bench.store.claimed


async def test_a_locked_request_waits_for_its_lock() -> None:
    bench = a_bench()
    bench.mirror.request_locks["200-0000000001"] = {"x__lock__0"}
    bench.add("200-0000000001")
    await bench.queue.step()
    assert not bench.store.claimed
    del bench.mirror.request_locks["200-0000000001"]
    bench.queue.offer("200-0000000001")
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]


async def test_at_quota_the_queue_waits_and_the_pool_pauses() -> None:
    bench = a_bench(max_servers=2)
    for number in range(3):
        bench.add(f"200-000000000{number}")
    ledger = Ledger(Resources.of(instances=2), 1)
    bench.mirror.ledgers["/nodepool-k8s/ledger/local/main"] = ledger
    await bench.queue.step()
    assert len(bench.store.claimed) == 2
    assert bench.queue.waits_for == "quota: 2 of 2 instances in use, 1 needed"
    assert [component.paused for component in bench.store.components] == [True]
    bench.store.used = Resources.of(instances=1)
    await bench.queue.step()
    assert len(bench.store.claimed) == 3
    assert not bench.queue.waits_for
    assert [component.paused for component in bench.store.components] == [True, False]


async def test_who_waits_for_quota_has_drafted_nothing() -> None:
    bench = a_bench(max_servers=1)
    bench.store.used = Resources.of(instances=1)
    bench.add("200-0000000001")
    await bench.queue.step()
    assert not bench.store.dropped


async def test_the_last_waiting_request_gone_ends_the_pause() -> None:
    bench = a_bench(max_servers=1)
    bench.store.used = Resources.of(instances=1)
    bench.add("200-0000000001")
    await bench.queue.step()
    bench.remove("200-0000000001")
    await bench.queue.step()
    assert not bench.queue.waits_for
    assert not bench.queue.component.paused


@pytest.mark.parametrize("error", [Held("held"), Outdated("outdated")])
async def test_a_conflict_costs_that_request_its_turn_and_its_drafts(
    error: NodepoolK8sError,
) -> None:
    bench = a_bench()
    bench.store.errors.append(error)
    bench.add("200-0000000001")
    bench.add("200-0000000002")
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000002"]
    assert bench.store.dropped == 1


async def test_an_unknown_outcome_is_tried_again_at_once() -> None:
    bench = a_bench()
    bench.store.errors.append(ConnectionLost("unknown"))
    bench.add("200-0000000001")
    await bench.queue.step()
    assert not bench.store.claimed
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]


async def test_a_lost_session_ends_the_queue() -> None:
    bench = a_bench()
    bench.store.errors.append(SessionLost("over"))
    bench.add("200-0000000001")
    with pytest.raises(SessionLost):
        await bench.queue.step()


async def test_max_concurrency_holds_claims_back() -> None:
    bench = a_bench(max_concurrency=2)
    for number in range(3):
        bench.add(f"200-000000000{number}")
    await bench.queue.step()
    assert len(bench.store.claimed) == 2
    assert "max-concurrency" in bench.queue.waits_for
    bench.queue.capacity.free(1)
    await bench.queue.step()
    assert len(bench.store.claimed) == 3


async def test_a_clusters_own_quota_holds_claims_back() -> None:
    bench = a_bench()
    bench.queue.refused_by_cluster(refused=True)
    bench.add("200-0000000001")
    await bench.queue.step()
    assert not bench.store.claimed
    assert bench.queue.component.paused
    bench.queue.refused_by_cluster(refused=False)
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]


async def test_a_stopped_queue_claims_nothing() -> None:
    bench = a_bench()
    bench.add("200-0000000001")
    bench.queue.stop()
    await bench.queue.run()
    assert not bench.store.claimed


async def test_who_may_have_it_is_asked_again_when_its_turn_comes() -> None:
    bench = a_bench(max_servers=1)
    bench.store.used = Resources.of(instances=1)
    bench.add("200-0000000001")
    await bench.queue.step()
    bench.register("first", "pod", priority=1)  # While it waited here.
    bench.store.used = Resources()
    await bench.queue.step()
    assert not bench.store.claimed
    bench.register("first", "pod", priority=1, paused=True)
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]


async def test_what_nobody_has_is_declined_with_the_reason() -> None:
    bench = a_bench()
    bench.add("200-0000000001", "nonesuch")
    await bench.queue.step()
    (request,) = bench.store.rewritten
    assert request.state is RequestState.FAILED
    assert request.declined_by == (ME,)
    reasons = request.extra["nodepool_k8s"]["reasons"]
    assert reasons == ["local/main: no pool has label nonesuch"]


async def test_what_others_have_is_left_to_them_until_they_leave() -> None:
    bench = a_bench()
    bench.register("other", "nonesuch")
    bench.add("200-0000000001", "nonesuch")
    await bench.queue.step()
    assert not bench.store.rewritten
    del bench.mirror.components["other"]
    bench.queue.components_changed()
    await bench.queue.step()
    assert [request.state for request in bench.store.rewritten] == [RequestState.FAILED]


async def test_nodes_of_another_launcher_count() -> None:
    bench = a_bench(max_servers=1)
    bench.mirror.usage("local", "main").foreign = Resources.of(instances=1)
    bench.add("200-0000000001")
    await bench.queue.step()
    assert not bench.store.claimed
    assert bench.queue.foreign_changed()
    bench.mirror.usage("local", "main").foreign = Resources()
    assert bench.queue.foreign_changed()
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]
