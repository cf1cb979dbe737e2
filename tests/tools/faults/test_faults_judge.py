"""The judge of tools/chaos reports each kind of broken promise."""

from __future__ import annotations

from typing import Any

import pytest
from faults.history import History
from faults.judge import AGREE_S, RELOAD_S, Judge
from faults.plan import BOUND_S, LIMITED_TENANT, Limits

UPKEEP_S = 5.0
TOKEN = "x" * 60


class Clock(History):
    """A history whose time the test sets."""

    time = 0.0

    def now(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def judge(clock: Clock) -> Judge:
    judge = Judge(clock, UPKEEP_S)
    judge.limits.set(Limits(pool=2, tenant=1))
    return judge


def node(state: str = "building", tenant: str | None = None, **changes: Any) -> dict[str, Any]:
    own = {"claimed": {"instances": 1000}, "tenant": tenant}
    return {"state": state, "driver_data": {"nodepool_k8s": own}, **changes}


def draft() -> dict[str, Any]:
    return {"state": "init", "driver_data": {"nodepool_k8s": {"type": "pod"}}}


def request(state: str = "requested", *nodes: str, **changes: Any) -> dict[str, Any]:
    return {"state": state, "nodes": list(nodes), "requestor": "zuul", **changes}


def broken(judge: Judge) -> list[str]:
    return [each.rule for each in judge.violations]


# --- limits --------------------------------------------------------------------------------------


def test_one_node_more_than_the_pool_may_have(judge: Judge) -> None:
    for name in ("1", "2"):
        judge.node_changed(name, node())
    judge.node_changed("draft", draft())
    assert not broken(judge)
    judge.node_changed("draft", node())
    assert broken(judge) == ["no pool is above its limit"]
    assert set(judge.violations[0].objects) == {"1", "2", "draft"}


def test_a_removed_node_makes_room(judge: Judge) -> None:
    for name in ("1", "2"):
        judge.node_changed(name, node())
    judge.node_gone("1")
    judge.node_changed("3", node())
    assert not broken(judge)


def test_one_node_more_than_the_tenant_may_have(judge: Judge) -> None:
    judge.node_changed("1", node(tenant=LIMITED_TENANT))
    judge.node_changed("2", node())
    assert not broken(judge)
    # An unallocated ready node is handed to the tenant.
    judge.node_changed("2", node(tenant=LIMITED_TENANT))
    assert broken(judge) == ["no tenant is above its limit"]


def test_a_lowered_limit_counts_when_every_launcher_has_read_it(judge: Judge, clock: Clock) -> None:
    judge.node_changed("1", node())
    judge.limits.set(Limits(pool=1, tenant=1))
    clock.time = RELOAD_S - 1
    judge.node_changed("2", node())
    assert not broken(judge)
    judge.node_gone("2")
    clock.time = RELOAD_S + 1
    judge.node_changed("3", node())
    assert broken(judge) == ["no pool is above its limit"]


def test_a_raised_limit_counts_at_once(judge: Judge) -> None:
    judge.limits.set(Limits(pool=3, tenant=1))
    for name in ("1", "2", "3"):
        judge.node_changed(name, node())
    assert not broken(judge)


def test_more_pods_than_nodes_may_be(judge: Judge, clock: Clock) -> None:
    for name in ("a", "b", "c"):
        judge.namespace_changed(name, "1", deleting=False)
        judge.pod_changed(f"uid-{name}", name, deleting=False)
    judge.look()
    assert not broken(judge)
    clock.time = AGREE_S + 0.1
    judge.look()
    assert broken(judge) == ["no pool is above its limit"]


def test_a_pod_in_a_namespace_that_is_deleted_does_not_count(judge: Judge, clock: Clock) -> None:
    for name in ("a", "b", "c"):
        judge.namespace_changed(name, "1", deleting=False)
        judge.pod_changed(f"uid-{name}", name, deleting=False)
    judge.namespace_changed("c", "1", deleting=True)
    judge.look()
    clock.time = AGREE_S + 0.1
    judge.look()
    assert not broken(judge)


# --- requests and their nodes --------------------------------------------------------------------


def test_a_node_for_two_requests(judge: Judge) -> None:
    judge.request_changed("200-1", request("fulfilled", "1"))
    judge.request_changed("200-2", request("fulfilled", "1"))
    assert broken(judge) == ["a node is given once"]


def test_a_node_that_a_requestor_has_accepted_is_given_again(judge: Judge) -> None:
    judge.request_changed("200-1", request("fulfilled", "1"))
    judge.accepted("200-1", "1")
    judge.withdrawn("200-1")
    judge.request_gone("200-1")
    judge.request_changed("200-2", request("fulfilled", "1"))
    assert broken(judge) == ["a node is given once"]


def test_what_nobody_accepted_may_be_given_again(judge: Judge) -> None:
    judge.request_changed("200-1", request("fulfilled", "1"))
    judge.withdrawn("200-1")
    judge.request_gone("200-1")
    judge.request_changed("200-2", request("fulfilled", "1"))
    assert not broken(judge)


def test_a_request_that_somebody_else_removed(judge: Judge) -> None:
    judge.request_changed("200-1", request())
    judge.request_gone("200-1")
    assert broken(judge) == ["no request is lost"]


def test_a_request_that_failed_without_a_reason(judge: Judge) -> None:
    told = {"nodepool_k8s": {"reasons": ["no such label"]}}
    judge.request_changed("200-1", request("failed", **told))
    assert not broken(judge)
    judge.request_changed("200-2", request("failed"))
    assert broken(judge) == ["failed with a reason"]


def test_a_node_that_is_removed_while_it_is_used(judge: Judge) -> None:
    for name in ("1", "2"):
        judge.node_changed(name, node("ready"))
        judge.accepted("200-1", name)
    judge.released("1", "used")
    judge.node_gone("1")
    assert not broken(judge)
    judge.node_gone("2")
    assert broken(judge) == ["a node in use stays"]


# --- namespaces, gaps and secrets ----------------------------------------------------------------


def test_a_namespace_without_a_record(judge: Judge, clock: Clock) -> None:
    judge.node_changed("1", node(external_id="chaos-1"))
    judge.namespace_changed("chaos-1", "1", deleting=False)
    judge.namespace_changed("chaos-2", "2", deleting=False)
    judge.look()
    clock.time = UPKEEP_S + BOUND_S - 1
    judge.look()
    assert not broken(judge)
    clock.time = UPKEEP_S + BOUND_S + 1
    judge.look()
    assert broken(judge) == ["every namespace has a record"]
    assert "chaos-2" in judge.violations[0].objects


def test_a_lock_that_outlives_its_request(judge: Judge, clock: Clock) -> None:
    for name in ("200-1", "200-2"):
        judge.request_changed(name, request())
        judge.lock_changed(name, f"of-{name}", there=True)
    clock.time = 100.0
    judge.look()
    for name in ("200-1", "200-2"):
        judge.withdrawn(name)
        judge.request_gone(name)
    judge.lock_changed("200-2", "of-200-2", there=False)
    clock.time += UPKEEP_S + BOUND_S - 1
    judge.look()
    assert not broken(judge)
    clock.time += 2
    judge.look()
    assert broken(judge) == ["no lock without an owner"]
    assert "of-200-1" in judge.violations[0].what


def test_after_a_gap_nothing_old_is_held_against_what_is_new(judge: Judge) -> None:
    judge.node_changed("1", node(tenant=LIMITED_TENANT))
    judge.request_changed("200-1", request())
    judge.catching_up = True
    judge.only_nodes({"1", "2"})
    judge.only_requests({"200-1"})
    # Node 1 is unallocated by now, which the judge has yet to read.
    judge.node_changed("2", node(tenant=LIMITED_TENANT))
    judge.node_changed("1", node("ready"))
    judge.catching_up = False
    assert not broken(judge)
    assert set(judge.nodes) == {"1", "2"}


def test_the_tokens_of_nodes_are_known(judge: Judge) -> None:
    judge.node_changed("1", node(connection_port={"users": [{"token": TOKEN}], "token": "short"}))
    assert judge.secrets == {TOKEN}


def test_a_violation_comes_with_what_happened_to_its_objects(judge: Judge, clock: Clock) -> None:
    judge.request_changed("200-1", request())
    clock.time = 2.5
    judge.request_gone("200-1")
    (found,) = judge.violations
    lines = clock.of(found.objects)
    assert lines[0] == "   0.000  200-1: requested, nodes []"
    assert "   2.500  200-1: removed" in lines
