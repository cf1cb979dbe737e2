"""A pool's queue on its own: whose turn it is, and when it waits. The store only notes down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from nodepool_k8s.config.settings import Label, Pool, Provider
from nodepool_k8s.drivers.driver import Driver
from nodepool_k8s.drivers.outcomes import Health
from nodepool_k8s.errors import ConnectionLost, Held, NodepoolK8sError, Outdated, SessionLost
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.launcher.launch_slots import LaunchSlots
from nodepool_k8s.launcher.pool_queue import PoolQueue
from nodepool_k8s.model import (
    MIN_READY,
    Component,
    LabelType,
    Ledger,
    Node,
    NodeRequest,
    NodeState,
    RequestState,
    Resources,
)
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper.ledger import LedgerChange
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Claim, NodeTaken, Store

ME = "me"
LEDGER = "/nodepool-k8s/ledger/local/main"


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
    totals: dict[str, Resources] = field(default_factory=dict)
    """What tenants' ledgers hold."""
    nodes: list[Node] = field(default_factory=list)
    """As they were claimed."""
    ready: dict[str, Node] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    """Ready nodes that others were faster to take."""
    faster: set[str] = field(default_factory=set)
    """Ready nodes that another launcher removes at the same moment."""
    unheard_of: Callable[[], None] | None = None
    """What has happened, and the mirror learns of when it is told to catch up."""
    while_reading: Callable[[], None] | None = None
    """What happens while the ledgers are read the next time."""
    errors: list[NodepoolK8sError] = field(default_factory=list)

    @property
    def ledgers(self) -> FakeStore:
        return self

    async def require_room(self, entries: Sequence[LedgerChange]) -> None:
        if self.while_reading is not None:
            happens, self.while_reading = self.while_reading, None
            happens()
        for entry in entries:
            total = self.totals.get(entry.path, Resources())
            entry.require_room(Ledger(self.used if entry.path == LEDGER else total, 1))

    async def read_nodes(self, node_ids: Sequence[str]) -> list[Node]:
        if self.taken & set(node_ids):
            raise NodeTaken(next(iter(self.taken & set(node_ids))))
        return [self.ready[node_id] for node_id in node_ids]

    async def draft_nodes(self, drafts: Sequence[Node]) -> list[Node]:
        return [replace(draft, id=f"{number:010}") for number, draft in enumerate(drafts)]

    async def drop_drafts(self, drafts: Sequence[Node]) -> None:
        self.dropped += len(drafts)

    async def claim(
        self, request: NodeRequest, nodes: Sequence[Node], entries: Sequence[LedgerChange]
    ) -> Claim:
        if self.errors:
            raise self.errors.pop(0)
        assert request.state is RequestState.PENDING
        await self.require_room(entries)
        self.claimed.append(request.id)
        self.nodes.extend(nodes)
        for entry in entries:
            if entry.path == LEDGER:
                self.used += entry.change
            else:
                self.totals[entry.path] = self.totals.get(entry.path, Resources()) + entry.change
        return Claim(request, "lock", tuple(HeldNode(node, "lock") for node in nodes))

    async def catch_up(self, ledger: str, node_ids: Sequence[str]) -> None:
        assert ledger == LEDGER
        if self.unheard_of is not None:
            happened, self.unheard_of = self.unheard_of, None
            happened()

    async def rewrite_request(self, request: NodeRequest) -> NodeRequest:
        self.rewritten.append(request)
        return request

    async def update_component(self, path: str, component: Component) -> None:
        self.components.append(component)


@dataclass
class FakeDriver:
    """One that can be used, or cannot yet."""

    identity: str = "cluster"
    in_sync: bool = True
    out_of_touch_since: float | None = None

    @property
    def health(self) -> Health:
        return Health(self.in_sync, self.out_of_touch_since)

    def driver_data(self, label: Label) -> dict[str, str]:
        return {"type": label.type.value}

    def external_id(self, pool: Pool, node_id: str, attempt: int) -> str:
        return f"{pool.name}-{node_id}-{attempt}"


class Unobserved:
    """Nobody wants to know what happens."""

    def claimed(self, queue: PoolQueue, context: LaunchContext, claim: Claim) -> None:
        pass

    def progressed(self) -> None:
        pass

    def attempt_failed(self, request: NodeRequest, node: Node, reason: str) -> None:
        pass


@dataclass
class FakeDeleter:
    """Removes ready nodes unless another launcher was faster."""

    store: FakeStore
    mirror: Mirror
    unusable: set[str] = field(default_factory=set)
    removed: list[str] = field(default_factory=list)

    def is_usable(self, context: LaunchContext, node: Node) -> bool:
        return node.id not in self.unusable

    async def remove_spare(self, node: Node, reason: str) -> bool:
        if node.id in self.store.faster:
            self.mirror.put_node(replace(node, state=NodeState.DELETING))
        if node.id in self.store.taken | self.store.faster:
            return False
        self.mirror.put_node(replace(node, state=NodeState.DELETING))
        self.removed.append(node.id)
        return True


@dataclass
class Bench:
    """A queue with everything around it."""

    queue: PoolQueue
    store: FakeStore
    mirror: Mirror
    rereads: list[str]
    unusable: set[str]
    removed: list[str]

    def keep_ready(self, node_id: str, label: str = "pod", **changes: Any) -> None:
        """There is a ready node that nobody uses."""
        fields: dict[str, Any] = {
            "provider": "local",
            "pool": "main",
            "claimed": self.queue._claims.usage[label],
            "state_time": float(node_id),
            **changes,
        }
        node = Node(node_id, NodeState.READY, (label,), **fields)
        self.store.ready[node_id] = node
        self.mirror.put_node(node)
        if node.claimed and node.provider == "local":
            self.store.used += node.claimed

    def add(self, request_id: str, *labels: str, **changes: Any) -> None:
        """A request appears, or changes."""
        fields: dict[str, Any] = {"state": RequestState.REQUESTED, **changes}
        request = NodeRequest(request_id, node_types=labels or ("pod",), **fields)
        self.mirror.requests[request_id] = request
        self.queue.request_changed(request_id, self.mirror.requests.get(request_id))

    def is_woken(self, by: Callable[[], None]) -> bool:
        """Whether that wakes the queue."""
        self.queue._wake.clear()
        by()
        return self.queue._wake.is_set()

    def remove(self, request_id: str) -> None:
        del self.mirror.requests[request_id]
        self.queue.request_changed(request_id, self.mirror.requests.get(request_id))

    def register(self, identity: str, *labels: str, **changes: Any) -> None:
        component = Component(identity, "theirs", frozenset(labels), **changes)
        self.mirror.components[identity] = component
        self.queue.components_changed()


TenantLimits = dict[str, dict[str, int]]


def a_bench(
    max_servers: int | None = None,
    max_concurrency: int | None = None,
    tenants: TenantLimits | None = None,
    *,
    fair_share: bool = False,
) -> Bench:
    labels = {
        "pod": Label("pod", LabelType.POD, image="x"),
        "large": Label("large", LabelType.POD, image="x", cpu=4),
    }
    limits = {} if max_servers is None else {"instances": max_servers * 1000}
    pool = Pool("local", "main", labels, limits=limits, fair_share=fair_share)
    rereads: list[str] = []

    def spawn(name: str, coroutine: Coroutine[Any, Any, None]) -> Any:
        rereads.append(name)
        coroutine.close()

    mirror = Mirror(cast(ZooKeeperClient, NoClient()), spawn)
    component = Component(ME, "local", frozenset(labels))
    mirror.components[ME] = component
    store = FakeStore()
    provider = Provider("local", None, (pool,), max_concurrency=max_concurrency)
    launch_slots = LaunchSlots(provider)
    deleter = FakeDeleter(store, mirror)
    driver = cast(Driver, FakeDriver())
    site = LaunchContext(
        provider,
        pool,
        driver,
        cast(Store, store),
        ME,
        Unobserved(),
    )
    queue = PoolQueue(
        site,
        component,
        launch_slots,
        cast(Store, store),
        mirror,
        deleter,
        Unobserved(),
        tenants or {},
    )
    queue.component_path = "/component"
    return Bench(queue, store, mirror, rereads, deleter.unusable, deleter.removed)


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


def hold(bench: Bench, node_id: str, tenant: str | None, **changes: Any) -> None:
    """A node is in use."""
    counted = bench.queue._claims.usage["pod"]
    fields: dict[str, Any] = {
        "provider": "local",
        "pool": "main",
        "allocated_to": f"100-{node_id}",
        "tenant_name": tenant,
        "claimed": counted,
        **changes,
    }
    bench.mirror.put_node(Node(node_id, NodeState.IN_USE, ("pod",), **fields))
    bench.store.used += counted


async def test_with_fair_share_tenants_take_turns() -> None:
    bench = a_bench(max_servers=4, fair_share=True)
    hold(bench, "1", "one")
    hold(bench, "2", "one")
    hold(bench, "3", "two", pool="another")
    hold(bench, "4", None, requestor=MIN_READY)
    bench.add("200-0000000001", tenant_name="one")
    bench.add("200-0000000002", tenant_name="two", relative_priority=9)
    bench.add("200-0000000003")
    await bench.queue.step()
    assert bench.store.claimed == []
    assert bench.queue.waiting == ["200-0000000003", "200-0000000002", "200-0000000001"]
    bench.store.used -= Resources.of(instances=2)
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000003", "200-0000000002"]


async def test_a_waiting_request_keeps_its_turn_when_shares_change() -> None:
    bench = a_bench(max_servers=3, fair_share=True)
    hold(bench, "1", "one")
    hold(bench, "2", "two")
    bench.add("200-0000000001", "pod", "pod", tenant_name="one")
    await bench.queue.step()
    bench.add("200-0000000002", tenant_name="two")
    bench.mirror._drop("/nodepool/nodes/2")
    await bench.queue.step()
    assert bench.store.claimed == []
    bench.store.used -= Resources.of(instances=1)
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]


async def test_fair_share_comes_and_goes_with_the_configuration() -> None:
    bench = a_bench(max_servers=2)
    hold(bench, "1", "one")
    hold(bench, "2", "one")
    bench.add("200-0000000001", tenant_name="one")
    bench.add("200-0000000002", tenant_name="two")
    site, orders = bench.queue._claims.context, []
    for fair in (False, True, False):
        pool = replace(site.pool, fair_share=fair)
        bench.queue.reconfigure(replace(site, pool=pool), {})
        orders.append(bench.queue.waiting)
    first, second = "200-0000000001", "200-0000000002"
    assert orders == [[first, second], [second, first], [first, second]]


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
    bench.queue.request_changed("200-0000000001", bench.mirror.requests["200-0000000001"])
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]


async def test_at_quota_the_queue_waits_and_the_pool_pauses() -> None:
    bench = a_bench(max_servers=2)
    for number in range(3):
        bench.add(f"200-000000000{number}")
    ledger = Ledger(Resources.of(instances=2), 1)
    bench.mirror.ledgers[LEDGER] = ledger
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
    assert not bench.queue.component.paused
    bench.queue.launch_slots.free(1)
    await bench.queue.step()
    assert len(bench.store.claimed) == 3


async def test_launches_count_for_other_pools_from_before_the_claim() -> None:
    bench = a_bench(max_concurrency=1)
    seen: list[bool] = []
    bench.store.while_reading = lambda: seen.append(bench.queue.launch_slots.full)
    bench.add("200-0000000001")
    await bench.queue.step()
    assert seen == [True]


@pytest.mark.parametrize("error", [Held("it is held"), ConnectionLost("it dropped")])
async def test_launches_that_were_not_claimed_count_no_more(error: NodepoolK8sError) -> None:
    bench = a_bench(max_concurrency=1)
    bench.store.errors.append(error)
    bench.add("200-0000000001")
    await bench.queue.step()
    assert bench.queue.launch_slots.launching == 0
    bench.add("200-0000000001")
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]
    assert bench.queue.launch_slots.launching == 1


async def test_the_end_of_launches_does_not_wake_a_wait_for_quota() -> None:
    bench = a_bench(max_servers=1, max_concurrency=2)
    bench.add("200-0000000001")
    bench.add("200-0000000002")
    await bench.queue.step()
    assert "quota" in bench.queue.waits_for
    assert not bench.is_woken(lambda: bench.queue.launch_slots.free(1))


async def test_a_pool_pauses_only_if_connecting_takes_long() -> None:
    bench = a_bench()
    cluster = cast(FakeDriver, bench.queue._claims.context.driver)
    now = asyncio.get_running_loop().time()
    cluster.in_sync, cluster.out_of_touch_since = False, now
    bench.add("200-0000000001")
    await bench.queue.step()
    assert bench.queue.waits_for == "the cluster of provider local"
    assert not bench.queue.component.paused
    cluster.out_of_touch_since = now - 5
    await bench.queue.step()
    assert bench.queue.component.paused
    cluster.in_sync, cluster.out_of_touch_since = True, None
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]
    assert not bench.queue.component.paused


async def test_a_pool_that_lost_its_cluster_pauses_after_a_moment() -> None:
    bench = a_bench()
    cluster = cast(FakeDriver, bench.queue._claims.context.driver)
    now = asyncio.get_running_loop().time()
    cluster.out_of_touch_since = now
    bench.add("200-0000000001")
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]
    cluster.out_of_touch_since = now - 3
    await bench.queue.step()
    assert bench.queue.component.paused, "although nobody asks for anything"
    bench.add("200-0000000002")
    bench.keep_ready("7")
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"], "not a ready node either"
    assert bench.queue.waits_for == "the cluster of provider local"
    cluster.out_of_touch_since = None
    assert bench.is_woken(lambda: bench.queue.health_changed(cast(Driver, cluster)))
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001", "200-0000000002"]
    assert not bench.queue.component.paused
    assert not bench.is_woken(lambda: bench.queue.health_changed(cast(Driver, FakeDriver())))


async def test_a_clusters_own_quota_holds_claims_back() -> None:
    bench = a_bench()
    with bench.queue.create_slots.refusal():
        bench.add("200-0000000001")
        await bench.queue.step()
        assert not bench.store.claimed
        assert bench.queue.component.paused
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
    bench.mirror.usage(LEDGER).foreign = Resources.of(instances=1)
    bench.add("200-0000000001")
    await bench.queue.step()
    assert not bench.store.claimed
    assert not bench.is_woken(bench.queue.nodes_changed)
    bench.mirror.usage(LEDGER).foreign = Resources()
    assert bench.is_woken(bench.queue.nodes_changed)
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]


# --- ready nodes -----------------------------------------------------------------------------


async def test_a_ready_node_is_handed_out_before_one_is_launched() -> None:
    bench = a_bench(max_servers=1)
    bench.keep_ready("0000000007")
    bench.add("200-0000000001", tenant_name="one", requestor="zuul")
    await bench.queue.step()
    (node,) = bench.store.nodes
    assert (node.id, node.allocated_to) == ("0000000007", "200-0000000001")
    assert (node.tenant_name, node.requestor) == ("one", "zuul")
    assert bench.store.used == Resources.of(instances=1)  # It counted before.
    assert bench.queue.launch_slots.launching == 0


async def test_a_request_gets_ready_and_new_nodes_in_its_own_order() -> None:
    bench = a_bench()
    bench.keep_ready("0000000007", "large")
    bench.add("200-0000000001", "pod", "large", "large")
    await bench.queue.step()
    assert [node.state for node in bench.store.nodes] == ["building", "ready", "building"]
    assert [node.type for node in bench.store.nodes] == [("pod",), ("large",), ("large",)]
    assert bench.queue.launch_slots.launching == 2


async def test_the_oldest_ready_node_goes_first_and_none_twice() -> None:
    bench = a_bench()
    for number in (9, 8, 7):
        bench.keep_ready(f"000000000{number}")
    bench.add("200-0000000001", "pod", "pod")
    await bench.queue.step()
    assert [node.id for node in bench.store.nodes] == ["0000000007", "0000000008"]


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": "other"},
        {"pool": "other"},
        {"allocated_to": "200-9"},
        {"claimed": None},  # A Nodepool launcher's.
    ],
)
async def test_other_nodes_are_not_handed_out(changes: dict[str, Any]) -> None:
    bench = a_bench()
    bench.keep_ready("0000000007", **changes)
    bench.add("200-0000000001")
    await bench.queue.step()
    assert [node.state for node in bench.store.nodes] == ["building"]


async def test_a_ready_node_that_is_dead_is_not_handed_out() -> None:
    bench = a_bench()
    bench.keep_ready("0000000007")
    bench.unusable.add("0000000007")
    bench.add("200-0000000001")
    await bench.queue.step()
    assert [node.state for node in bench.store.nodes] == ["building"]


async def test_a_ready_node_that_is_locked_is_not_handed_out() -> None:
    bench = a_bench()
    bench.keep_ready("0000000007")
    bench.mirror.node_locks["0000000007"] = {"x__lock__0"}
    bench.add("200-0000000001")
    await bench.queue.step()
    assert [node.state for node in bench.store.nodes] == ["building"]


async def test_who_comes_too_late_for_a_ready_node_takes_the_next() -> None:
    bench = a_bench()
    bench.keep_ready("0000000007")
    bench.keep_ready("0000000008")
    bench.store.taken.add("0000000007")
    bench.add("200-0000000001")
    await bench.queue.step()
    assert [node.id for node in bench.store.nodes] == ["0000000008"]


async def test_a_request_for_new_nodes_gets_new_ones() -> None:
    bench = a_bench()
    bench.keep_ready("0000000007")
    bench.add("900-0000000001", extra={"reuse": False})
    await bench.queue.step()
    assert [node.state for node in bench.store.nodes] == ["building"]


async def test_ready_nodes_are_handed_out_when_launches_are_barred() -> None:
    bench = a_bench(max_concurrency=1)
    bench.queue.launch_slots.launching = 1
    bench.keep_ready("0000000007")
    bench.add("200-0000000001")
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]


# --- room ---------------------------------------------------------------------------------------


async def test_one_unused_ready_node_goes_where_that_makes_room() -> None:
    bench = a_bench(max_servers=2)
    bench.keep_ready("0000000007")
    bench.keep_ready("0000000008")
    bench.add("200-0000000001", "large")
    await bench.queue.step()
    assert bench.removed == ["0000000007"]
    await bench.queue.step()  # Room is on its way: no other has to go.
    assert bench.removed == ["0000000007"]
    assert "instances" in bench.queue.waits_for


async def test_a_ready_node_that_is_part_of_the_request_does_not_go() -> None:
    bench = a_bench(max_servers=2)
    bench.keep_ready("0000000007", "large")
    bench.keep_ready("0000000008")
    bench.add("200-0000000001", "large", "large")
    await bench.queue.step()
    assert bench.removed == ["0000000008"]


async def test_no_ready_node_goes_where_that_makes_no_room() -> None:
    bench = a_bench(max_servers=2)
    bench.store.used = Resources.of(instances=1)  # In use.
    bench.keep_ready("0000000007")
    bench.mirror.ledgers[LEDGER] = Ledger(bench.store.used, 1)
    bench.add("200-0000000001", "large", "large")
    await bench.queue.step()
    assert not bench.removed


async def test_the_next_ready_node_is_removed_if_the_first_was_taken() -> None:
    bench = a_bench(max_servers=2)
    bench.keep_ready("0000000007")
    bench.keep_ready("0000000008")
    bench.store.taken.add("0000000007")
    bench.add("200-0000000001", "large")
    await bench.queue.step()
    assert bench.removed == ["0000000008"]


async def test_no_second_removal_if_another_launcher_was_faster() -> None:
    bench = a_bench(max_servers=2)
    bench.keep_ready("0000000007")
    bench.keep_ready("0000000008")
    bench.store.faster.add("0000000007")
    bench.add("200-0000000001", "large")
    await bench.queue.step()
    assert not bench.removed
    assert "instances" in bench.queue.waits_for


async def test_no_second_removal_while_anothers_is_not_seen_yet() -> None:
    bench = a_bench(max_servers=2)
    bench.keep_ready("0000000007")
    bench.keep_ready("0000000008")
    bench.mirror.node_locks["0000000007"] = {"x__lock__0"}
    leaving = replace(bench.store.ready["0000000007"], state=NodeState.DELETING)
    bench.store.unheard_of = lambda: bench.mirror.put_node(leaving)
    bench.add("200-0000000001", "large")
    await bench.queue.step()
    assert not bench.removed
    assert "instances" in bench.queue.waits_for


async def test_no_second_removal_while_another_is_seen_in_part() -> None:
    bench = a_bench(max_servers=2)
    bench.keep_ready("0000000007")
    bench.keep_ready("0000000008")
    leaving = replace(bench.store.ready["0000000007"], state=NodeState.DELETING)

    def locked() -> None:
        bench.mirror.node_locks["0000000007"] = {"x__lock__0"}
        bench.store.unheard_of = lambda: bench.mirror.put_node(leaving)

    bench.store.unheard_of = locked
    bench.add("200-0000000001", "large")
    await bench.queue.step()
    assert not bench.removed
    assert "instances" in bench.queue.waits_for


async def test_no_ready_node_goes_for_a_request_that_went_meanwhile() -> None:
    bench = a_bench(max_servers=2)
    bench.keep_ready("0000000007")
    bench.keep_ready("0000000008")
    bench.add("200-0000000001", "large")
    bench.store.unheard_of = lambda: bench.remove("200-0000000001")
    await bench.queue.step()
    assert not bench.removed


async def test_a_node_freed_meanwhile_is_not_removed_for_the_request() -> None:
    bench = a_bench(max_servers=1)
    bench.keep_ready("0000000007")
    node = bench.store.ready["0000000007"]
    bench.mirror.put_node(replace(node, allocated_to="200-0000000000"))
    bench.store.while_reading = lambda: bench.mirror.put_node(node)
    bench.add("200-0000000001")
    await bench.queue.step()
    assert not bench.removed


async def test_a_spare_node_waits_for_no_room_and_takes_nobodys() -> None:
    bench = a_bench(max_servers=1)
    bench.keep_ready("0000000007", "large")
    bench.add("900-0000000001", requestor=MIN_READY, extra={"reuse": False})
    await bench.queue.step()
    assert not bench.removed
    assert not bench.queue.component.paused
    (request,) = bench.store.rewritten
    assert request.state is RequestState.FAILED


# --- tenants ----------------------------------------------------------------------------------


async def test_a_tenant_at_its_limit_steps_aside() -> None:
    bench = a_bench(tenants={"one": {"instances": 1000}})
    for number, tenant in enumerate(["one", "one", "two", "one"]):
        bench.add(f"200-000000000{number}", tenant_name=tenant)
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000000", "200-0000000002"]
    assert not bench.queue.component.paused
    assert not bench.store.rewritten  # Deferred, not declined.
    request = bench.mirror.requests["200-0000000001"]
    assert bench.queue.why_waits(request).startswith("quota: ")


async def test_a_request_deleted_while_its_ledger_is_read_is_skipped() -> None:
    bench = a_bench(tenants={"one": {"instances": 1000}})
    bench.store.totals["/nodepool-k8s/tenants/one"] = Resources.of(instances=1)
    bench.add("200-0000000001", tenant_name="one")
    bench.add("200-0000000002", tenant_name="two")
    bench.store.while_reading = lambda: bench.remove("200-0000000001")
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000002"]


async def test_a_tenants_smaller_request_may_go_first() -> None:
    bench = a_bench(tenants={"one": {"cores": 3000}})
    bench.add("200-0000000001", "large", tenant_name="one")
    bench.add("200-0000000002", "pod", tenant_name="one")
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000002"]


async def test_a_tenant_goes_on_when_its_ledger_has_room() -> None:
    bench = a_bench(tenants={"one": {"instances": 1000}})
    bench.add("200-0000000001", tenant_name="one")
    bench.add("200-0000000002", tenant_name="one")
    await bench.queue.step()
    assert not bench.is_woken(lambda: bench.queue.ledger_changed("/nodepool-k8s/tenants/two"))
    bench.store.totals.clear()
    assert bench.is_woken(lambda: bench.queue.ledger_changed("/nodepool-k8s/tenants/one"))
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001", "200-0000000002"]


async def test_a_ready_node_counts_for_its_new_tenant() -> None:
    bench = a_bench(tenants={"one": {"instances": 1000}})
    bench.keep_ready("0000000007")
    bench.add("200-0000000001", tenant_name="one")
    bench.add("200-0000000002", tenant_name="one")
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]
    assert [node.counted_for for node in bench.store.nodes] == ["one"]


async def test_nodes_that_a_tenant_has_of_other_launchers_count() -> None:
    bench = a_bench(tenants={"one": {"instances": 1000}})
    node = Node("0000000003", NodeState.IN_USE, ("pod",), "theirs", "pool", tenant_name="one")
    bench.mirror.put_node(node)
    bench.add("200-0000000001", tenant_name="one")
    await bench.queue.step()
    assert not bench.store.claimed
    bench.mirror.put_node(replace(node, tenant_name=None))
    assert bench.is_woken(bench.queue.nodes_changed)
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]


# --- other settings ------------------------------------------------------------------------------


def reconfigured(bench: Bench, tenants: TenantLimits | None = None, **fields: Any) -> None:
    """The pool gets other settings."""
    site = bench.queue._claims.context
    site = replace(site, pool=replace(site.pool, **fields))
    bench.queue.reconfigure(site, tenants or {})


async def test_other_limits_are_looked_at_at_once() -> None:
    bench = a_bench(max_servers=1)
    bench.add("200-0000000001")
    bench.add("200-0000000002")
    await bench.queue.step()
    bench.remove("200-0000000001")
    assert bench.is_woken(lambda: reconfigured(bench, limits={"instances": 2000}))
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001", "200-0000000002"]


async def test_the_same_settings_wake_nobody() -> None:
    bench = a_bench(max_servers=1)
    assert not bench.is_woken(lambda: reconfigured(bench))


async def test_labels_and_priority_are_shown_under_the_same_id() -> None:
    bench = a_bench()
    labels = {"new": Label("new", LabelType.POD, image="x")}
    reconfigured(bench, labels=labels, priority=7)
    await bench.queue.step()
    assert bench.store.components == [Component(ME, "local", frozenset({"new"}), priority=7)]
    await bench.queue.step()
    assert len(bench.store.components) == 1


async def test_a_removed_label_is_declined_and_a_new_one_served() -> None:
    bench = a_bench()
    bench.register("theirs", "new")
    bench.add("200-0000000001", "large")
    bench.add("200-0000000002", "new")  # Left to the other one.
    labels = {"new": Label("new", LabelType.POD, image="x")}
    reconfigured(bench, labels=labels)
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000002"]
    assert [request.id for request in bench.store.rewritten] == ["200-0000000001"]


async def test_a_tenants_raised_limit_calls_back_what_stood_aside() -> None:
    bench = a_bench(tenants={"one": {"instances": 1000}})
    for number in range(3):
        bench.add(f"200-000000000{number}", tenant_name="one")
    await bench.queue.step()
    assert len(bench.store.claimed) == 1
    reconfigured(bench, tenants={"one": {"instances": 3000}})
    await bench.queue.step()
    assert len(bench.store.claimed) == 3


async def test_nothing_is_claimed_until_the_cluster_can_be_used() -> None:
    bench = a_bench()
    cluster = cast(FakeDriver, bench.queue._claims.context.driver)
    cluster.in_sync = False
    bench.add("200-0000000001")
    await bench.queue.step()
    assert not bench.store.claimed
    assert "cluster of provider local" in bench.queue.waits_for
    cluster.in_sync = True
    await bench.queue.step()
    assert bench.store.claimed == ["200-0000000001"]
    assert not bench.queue.component.paused
