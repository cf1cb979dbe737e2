"""Nodes and requests in any state and of any age: what upkeep does to them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nodepool_k8s.config.settings import Provider
from nodepool_k8s.drivers.outcomes import Owned
from nodepool_k8s.kubernetes.tokens import needs_token
from nodepool_k8s.model import (
    MIN_READY,
    Component,
    Node,
    NodeRequest,
    NodeState,
    RequestState,
    Resources,
)
from nodepool_k8s.policy import upkeep
from nodepool_k8s.policy.upkeep import Ages
from nodepool_k8s.znodes.encoding import DRIVER_KEY
from nodepool_k8s.znodes.nodes import token_times
from tests.support.fuzzing import fuzzed, values

TIMES = st.integers(0, 100).map(float)
AGES = st.builds(Ages, st.none() | TIMES, st.none() | TIMES)
NODES = st.builds(
    Node,
    id=st.just("0000000001"),
    state=st.sampled_from(NodeState),
    type=st.lists(st.sampled_from(["a", "b"]), max_size=2).map(tuple),
    provider=st.sampled_from(["one", "two", None]),
    pool=st.sampled_from(["main", "other", None]),
    requestor=st.sampled_from([MIN_READY, "zuul", None]),
    allocated_to=st.sampled_from(["200-0000000001", None]),
    state_time=TIMES,
    claimed=st.sampled_from([None, Resources(), Resources.of(instances=1)]),
    driver_data=st.sampled_from([{}, {"nodepool_k8s": {"cluster": "c"}}, {"nodepool_k8s": 5}]),
    extra=st.fixed_dictionaries({}, optional={"hold_expiration": TIMES | values}),
)
REQUESTS = st.none() | st.builds(
    NodeRequest, st.just("200-0000000001"), st.sampled_from(RequestState), st.just(("a",))
)
UNUSABLE = st.sampled_from([None, "the pod is gone"])


@fuzzed(300)
@given(NODES, TIMES, AGES, UNUSABLE, st.booleans(), REQUESTS)
def test_no_node_is_freed_and_deleted_and_no_held_node_either(
    node: Node,
    now: float,
    ages: Ages,
    unusable: str | None,
    locked: bool,
    request: NodeRequest | None,
) -> None:
    why = upkeep.why_delete(node, locked=locked, now=now, ages=ages, unusable=unusable)
    freed = upkeep.is_freed(node, locked=locked, request=request)
    assert why is None or not freed
    assert why != ""
    if locked or node.claimed is None:
        assert why is None
        assert not freed
    if node.state is NodeState.READY and node.allocated_to is not None:
        assert why is None, "a ready node of a request is given back first"


@fuzzed(200)
@given(NODES, TIMES, TIMES, AGES, UNUSABLE)
def test_what_is_due_stays_due(
    node: Node, now: float, later: float, ages: Ages, unusable: str | None
) -> None:
    early, late = sorted([now, later])
    if upkeep.why_delete(node, locked=False, now=early, ages=ages, unusable=unusable):
        assert upkeep.why_delete(node, locked=False, now=late, ages=ages, unusable=unusable)
    due = upkeep.due_at(node, ages)
    if due is not None:
        assert due > node.state_time
        assert node.state is NodeState.HOLD or node.unused


@fuzzed(200)
@given(NODES, AGES, AGES)
def test_who_may_get_older_is_not_due_earlier(node: Node, one: Ages, two: Ages) -> None:
    """0 and None are both: as old as it likes."""

    def older(a: float | None, b: float | None) -> float | None:
        return None if not a or not b else max(a, b)

    longer = Ages(older(one.ready, two.ready), older(one.hold, two.hold))
    for ages in (one, two):
        due, longer_due = upkeep.due_at(node, ages), upkeep.due_at(node, longer)
        assert longer_due is None or (due is not None and due <= longer_due)


@fuzzed(150)
@given(NODES, REQUESTS, TIMES, AGES)
def test_every_unheld_node_of_ours_ends_or_waits_for_an_owner(
    node: Node, request: NodeRequest | None, now: float, ages: Ages
) -> None:
    """Follow one node that nobody touches but upkeep: it is deleted, or kept for a reason."""
    node = replace(node, claimed=Resources.of(instances=1))
    for _ in range(2):
        if upkeep.is_freed(node, locked=False, request=request):
            node = replace(node, allocated_to=None)
    due = upkeep.due_at(node, ages)
    ever = now if due is None else max(now, due)
    if upkeep.why_delete(node, locked=False, now=ever, ages=ages, unusable=None):
        return
    kept_for_ever = due is None and (node.unused or node.state is NodeState.HOLD)
    in_hand = request is not None and not upkeep.has_no_nodes(request)
    handed_over = node.state is NodeState.READY and in_hand
    assert kept_for_ever or handed_over or node.state is NodeState.INIT


@fuzzed(150)
@given(NODES, TIMES, st.booleans())
def test_a_draft_is_no_node_of_anybody_elses(node: Node, now: float, locked: bool) -> None:
    if upkeep.is_lost_draft(node, now):
        assert node.claimed is None
        assert node.driver_data
        assert node.state is NodeState.INIT
        assert upkeep.is_lost_draft(node, now + 1)


COMPONENTS = st.lists(
    st.builds(
        Component,
        st.sampled_from(["x", "y"]),
        st.sampled_from(["one", "two", None]),
        st.frozensets(st.sampled_from(["a", "b"])),
        pool=st.sampled_from(["", "main", "other"]),
    ),
    max_size=3,
)


@fuzzed(150)
@given(NODES, COMPONENTS, st.booleans(), st.sampled_from(["one", "two", "three"]))
def test_more_pools_never_make_a_node_useless(
    node: Node, components: list[Component], moved: bool, provider: str
) -> None:
    if not upkeep.is_unoffered(node, components, moved=moved):
        return
    assert node.unused
    assert node.claimed is not None
    assert upkeep.is_unoffered(node, components[1:], moved=moved)
    ours = [Provider(provider, None, ())]
    assert not upkeep.is_served_elsewhere(provider, ours, components)


@fuzzed(100)
@given(st.sampled_from(RequestState), st.booleans())
def test_only_a_pending_request_without_a_lock_was_left_behind(
    state: RequestState, locked: bool
) -> None:
    request = NodeRequest("200-1", state, ("a",))
    left = upkeep.is_left_behind(request, locked=locked)
    assert left == (state is RequestState.PENDING and not locked)


@fuzzed(150)
@given(values, values, TIMES)
def test_a_token_that_is_needed_stays_needed(expires: object, issued: object, now: float) -> None:
    own = {"token_expires": expires, "token_issued": issued}
    node = Node("1", NodeState.READY, state_time=5.0, driver_data={DRIVER_KEY: own})
    expires, issued = token_times(node)
    if needs_token(expires, issued, now):
        assert needs_token(expires, issued, now + 1)


@fuzzed(60)
@given(st.none() | NODES, st.booleans(), st.none() | TIMES, TIMES)
def test_a_suspect_is_not_on_its_way_out(
    node: Node | None, deleting: bool, deleted_at: float | None, now: float
) -> None:
    namespace = Owned("n", "uid", "1", True, deleting, deleted_at)
    if node is not None and node.external_id == "n":
        assert not upkeep.is_suspect(namespace, node)
    assert upkeep.is_suspect(namespace, None) == (not deleting)
    stuck = upkeep.stuck_for(namespace, now)
    assert stuck is None if deleted_at is None else (stuck or 0) >= 0


@fuzzed(60)
@given(TIMES, TIMES.filter(bool))
def test_reports_come_ever_more_seldom(age: float, first: float) -> None:
    after = upkeep.next_report(age, first)
    assert after >= first
    assert upkeep.next_report(after, first) - after >= after - age or after == first
