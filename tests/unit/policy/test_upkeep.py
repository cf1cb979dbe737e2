"""What is due for deletion, what was left behind, what has leaked: by table."""

from typing import Any

import pytest

from nodepool_k8s.config.settings import Provider
from nodepool_k8s.drivers.outcomes import Owned
from nodepool_k8s.kubernetes.tokens import needs_token
from nodepool_k8s.model import (
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

REMOVABLE = {
    *("used", "in-use", "building", "testing", "failed", "deleting", "deleted", "aborted"),
}
OURS: dict[str, Any] = {DRIVER_KEY: {"type": "pod"}}


def why_delete(node: Node, **changes: Any) -> str | None:
    """Why an unlocked node without an end is deleted."""
    facts = {"locked": False, "now": 1000.0, "ages": Ages(), "unusable": None, **changes}
    return upkeep.why_delete(node, **facts)


def a_node(state: str, **changes: Any) -> Node:
    return Node("1", NodeState(state), **{"claimed": Resources.of(instances=1), **changes})


@pytest.mark.parametrize("state", list(NodeState))
def test_an_unlocked_node_is_deleted_in_some_states(state: NodeState) -> None:
    reason = why_delete(a_node(state))
    assert (reason is not None) == (state in REMOVABLE)


@pytest.mark.parametrize("state", list(NodeState))
def test_a_locked_node_is_somebodys(state: NodeState) -> None:
    node = a_node(state)
    assert why_delete(node, locked=True, unusable="its pod is gone") is None
    assert not upkeep.is_freed(node, locked=True, request=None)


@pytest.mark.parametrize("state", list(NodeState))
def test_a_node_that_we_never_claimed_is_another_launchers(state: NodeState) -> None:
    node = a_node(state, claimed=None)
    assert why_delete(node, unusable="its pod is gone") is None
    assert not upkeep.is_freed(node, locked=False, request=None)


@pytest.mark.parametrize(
    ("allocated_to", "answer", "freed"),
    [
        ("200-1", None, True),
        ("200-1", RequestState.REQUESTED, True),
        ("200-1", RequestState.FAILED, True),
        ("200-1", RequestState.PENDING, False),
        ("200-1", RequestState.FULFILLED, False),
        (None, None, False),
    ],
)
def test_a_ready_node_without_its_request_is_freed(
    allocated_to: str | None, answer: RequestState | None, freed: bool
) -> None:
    node = a_node("ready", allocated_to=allocated_to)
    request = NodeRequest("200-1", answer, ("pod",)) if answer else None
    assert upkeep.is_freed(node, locked=False, request=request) == freed
    assert why_delete(node) is None


@pytest.mark.parametrize("state", sorted(set(NodeState) - {NodeState.READY}))
def test_only_ready_nodes_are_set_free(state: NodeState) -> None:
    node = a_node(state, allocated_to="200-1")
    assert not upkeep.is_freed(node, locked=False, request=None)


@pytest.mark.parametrize(
    ("state", "changes", "ages", "due"),
    [
        ("ready", {}, Ages(ready=60), 160),
        ("ready", {}, Ages(ready=None, hold=60), None),
        ("ready", {}, Ages(ready=0.0), None),
        ("ready", {"allocated_to": "200-1"}, Ages(ready=60), None),
        ("in-use", {}, Ages(ready=60, hold=60), None),
        ("hold", {}, Ages(ready=60), None),
        ("hold", {}, Ages(hold=60), 160),
        ("hold", {"extra": {"hold_expiration": 30}}, Ages(hold=60), 130),
        ("hold", {"extra": {"hold_expiration": 90}}, Ages(hold=60), 160),
        ("hold", {"extra": {"hold_expiration": 90}}, Ages(), 190),
        ("hold", {"extra": {"hold_expiration": "90"}}, Ages(), 190),
        ("hold", {"extra": {"hold_expiration": 0}}, Ages(), None),
        ("hold", {"extra": {"hold_expiration": -1}}, Ages(hold=60), 160),
        ("hold", {"extra": {"hold_expiration": "soon"}}, Ages(), None),
    ],
)
def test_a_node_is_kept_no_longer_than_it_may(
    state: str, changes: dict[str, Any], ages: Ages, due: float | None
) -> None:
    node = a_node(state, state_time=100.0, **changes)
    assert upkeep.due_at(node, ages) == due
    if due is not None:
        assert why_delete(node, now=due - 0.1, ages=ages) is None
        assert "is over" in (why_delete(node, now=due, ages=ages) or "")


def test_an_unused_node_that_cannot_be_handed_out_is_deleted() -> None:
    gone = "its pod is gone"
    assert why_delete(a_node("ready"), unusable=gone) == gone
    assert why_delete(a_node("ready", allocated_to="200-1"), unusable=gone) is None
    assert why_delete(a_node("hold"), unusable=gone) is None


HOUR, DAY = 3600.0, 24 * 3600.0


@pytest.mark.parametrize(
    ("granted", "left", "needed"),
    [
        (7 * DAY, 2 * DAY, False),
        (7 * DAY, DAY - 1, True),
        (HOUR, 50 * 60, False),
        (HOUR, 47 * 60, True),
        (HOUR, -1, True),
    ],
)
def test_a_token_is_renewed_when_little_of_it_is_left(
    granted: float, left: float, needed: bool
) -> None:
    issued = 1000.0
    expires = issued + granted
    assert needs_token(expires, issued, expires - left) == needed


def test_a_token_without_an_end_is_not_renewed() -> None:
    assert not needs_token(None, 0.0, 1e12)


@pytest.mark.parametrize(
    ("state", "changes", "age", "lost"),
    [
        ("init", {"driver_data": OURS}, 61, True),
        ("init", {"driver_data": OURS}, 59, False),
        ("init", {"driver_data": {}}, 61, False),
        ("init", {"driver_data": OURS, "claimed": Resources()}, 61, False),
        ("building", {"driver_data": OURS}, 61, False),
    ],
)
def test_a_draft_is_lost_after_a_minute(
    state: str, changes: dict[str, Any], age: float, lost: bool
) -> None:
    node = a_node(state, **{"claimed": None, "state_time": 1000.0, **changes})
    assert upkeep.is_lost_draft(node, 1000.0 + age) == lost


@pytest.mark.parametrize("state", list(RequestState))
@pytest.mark.parametrize("locked", [True, False])
def test_a_pending_request_that_nobody_holds_was_left_behind(
    state: RequestState, locked: bool
) -> None:
    request = NodeRequest("200-1", state, ("pod",))
    assert upkeep.is_left_behind(request, locked=locked) == (state == "pending" and not locked)


@pytest.mark.parametrize(
    ("node", "deleting", "suspect"),
    [
        (None, False, True),
        (None, True, False),
        (a_node("building", external_id="main-1"), False, False),
        (a_node("building", external_id="main-1-1"), False, True),
        (a_node("used", external_id=None), False, True),
    ],
)
def test_a_namespace_that_no_record_names_is_suspect(
    node: Node | None, deleting: bool, suspect: bool
) -> None:
    namespace = Owned("main-1", "uid", "1", True, deleting=deleting)
    assert upkeep.is_suspect(namespace, node) == suspect


# --- providers and labels that were taken out -------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "elsewhere"),
    [("ours", False), ("both", False), ("theirs", True), ("nobodys", False), (None, False)],
)
def test_a_provider_is_another_launchers_if_that_one_lives(
    provider: str | None, elsewhere: bool
) -> None:
    ours = [Provider(name, None, ()) for name in ("ours", "both")]
    components = [Component(name, name, frozenset()) for name in ("both", "theirs")]
    assert upkeep.is_served_elsewhere(provider, ours, components) is elsewhere


@pytest.mark.parametrize(
    ("component", "offered"),
    [
        ({}, True),
        ({"pool": ""}, True),  # An old launcher does not say which it is.
        ({"pool": "other"}, False),
        ({"provider_name": "other"}, False),
        ({"supported_labels": frozenset({"large"})}, False),
        ({"paused": True}, True),
    ],
)
def test_an_unused_node_stays_while_its_label_is_offered(
    component: dict[str, Any], offered: bool
) -> None:
    fields = {"supported_labels": frozenset({"pod", "large"}), "pool": "main", **component}
    fields = {"provider_name": "local", **fields}
    node = a_node("ready", type=("pod",), provider="local", pool="main")
    registered = [Component("x", **fields)]
    assert upkeep.is_unoffered(node, registered, moved=False) is not offered
    assert upkeep.is_unoffered(node, registered, moved=True)


@pytest.mark.parametrize(
    "node",
    [
        a_node("ready", allocated_to="200-1"),
        a_node("in-use"),
        a_node("hold"),
        a_node("ready", claimed=None),
    ],
)
def test_a_node_that_somebody_has_is_never_unoffered(node: Node) -> None:
    assert not upkeep.is_unoffered(node, [], moved=True)


# --- Terminating --------------------------------------------------------------------------------


def test_how_long_a_namespace_is_terminating() -> None:
    assert upkeep.stuck_for(Owned("x", "1", "1", True), 100.0) is None
    assert (
        upkeep.stuck_for(Owned("x", "1", "1", True, deleting=True, deleted_at=40.0), 100.0) == 60.0
    )
    # A clock that is behind the API server's.
    assert (
        upkeep.stuck_for(Owned("x", "1", "1", True, deleting=True, deleted_at=140.0), 100.0) == 0.0
    )


def test_what_is_stuck_is_reported_ever_more_seldom() -> None:
    ages = [61.0]
    while ages[-1] < 3600:
        ages.append(upkeep.next_report(ages[-1], 60.0))
    assert len(ages) < 8
    assert upkeep.next_report(1.0, 60.0) == 60.0
