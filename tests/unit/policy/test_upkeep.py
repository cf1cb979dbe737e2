"""What is due for deletion, what was left behind, what has leaked: by table."""

from typing import Any

import pytest

from nodepool_k8s.model import (
    Namespace,
    Node,
    NodeRequest,
    NodeState,
    RequestState,
    Resources,
)
from nodepool_k8s.policy import upkeep
from nodepool_k8s.wire import DRIVER_KEY

REMOVABLE = {
    *("used", "in-use", "building", "testing", "failed", "deleting", "deleted", "aborted"),
}
OURS: dict[str, Any] = {DRIVER_KEY: {"type": "pod"}}


def a_node(state: str, **changes: Any) -> Node:
    return Node("1", NodeState(state), **{"claimed": Resources.of(instances=1), **changes})


@pytest.mark.parametrize("state", list(NodeState))
def test_an_unlocked_node_is_deleted_in_some_states(state: NodeState) -> None:
    reason = upkeep.why_delete(a_node(state), locked=False, request_exists=True)
    assert (reason is not None) == (state in REMOVABLE)


@pytest.mark.parametrize("state", list(NodeState))
def test_a_locked_node_is_somebodys(state: NodeState) -> None:
    assert upkeep.why_delete(a_node(state), locked=True, request_exists=False) is None


@pytest.mark.parametrize("state", list(NodeState))
def test_a_node_that_we_never_claimed_is_another_launchers(state: NodeState) -> None:
    node = a_node(state, claimed=None)
    assert upkeep.why_delete(node, locked=False, request_exists=False) is None


@pytest.mark.parametrize(
    ("allocated_to", "request_exists", "deleted"),
    [("200-1", False, True), ("200-1", True, False), (None, False, False)],
)
def test_a_ready_node_lives_as_long_as_its_request(
    allocated_to: str | None, request_exists: bool, deleted: bool
) -> None:
    node = a_node("ready", allocated_to=allocated_to)
    reason = upkeep.why_delete(node, locked=False, request_exists=request_exists)
    assert (reason is not None) == deleted


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
    namespace = Namespace("main-1", "uid", deleting=deleting)
    assert upkeep.is_suspect(namespace, node) == suspect
