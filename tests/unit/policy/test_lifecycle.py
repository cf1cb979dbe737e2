"""Moves of nodes and requests: the table, and what an illegal move says."""

import pytest

from nodepool_k8s.model import Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.policy.lifecycle import (
    MAX_HISTORY,
    NODE_MOVES,
    REQUEST_MOVES,
    IllegalMove,
    may_move_node,
    move_node,
    move_request,
)
from nodepool_k8s.znodes.nodes import encode_node


def a_node(state: NodeState) -> Node:
    return Node(id="0000000001", state=state)


def a_request(state: RequestState) -> NodeRequest:
    return NodeRequest(id="200-0000000001", state=state, node_types=("pod",))


def test_every_state_has_a_row() -> None:
    assert set(NODE_MOVES) == set(NodeState)
    assert set(REQUEST_MOVES) == set(RequestState)


def test_every_node_can_be_deleted() -> None:
    assert all(may_move_node(a_node(state), NodeState.DELETING) for state in NodeState)


@pytest.mark.parametrize("state", [NodeState.DELETING, NodeState.DELETED])
def test_a_deleted_node_never_comes_back(state: NodeState) -> None:
    assert NODE_MOVES[state] == {NodeState.DELETING, NodeState.DELETED}


@pytest.mark.parametrize("before", NodeState)
@pytest.mark.parametrize("after", NodeState)
def test_a_node_moves_as_the_table_says(before: NodeState, after: NodeState) -> None:
    node = a_node(before)
    if after in NODE_MOVES[before]:
        moved = move_node(node, after, 12.5, allocated_to="200-0000000001")
        assert (moved.state, moved.state_time) == (after, 12.5)
        assert moved.allocated_to == "200-0000000001"
    else:
        with pytest.raises(IllegalMove, match=f"cannot go from {before} to {after}"):
            move_node(node, after, 12.5)


@pytest.mark.parametrize("before", RequestState)
@pytest.mark.parametrize("after", RequestState)
def test_a_request_moves_as_the_table_says(before: RequestState, after: RequestState) -> None:
    request = a_request(before)
    if after in REQUEST_MOVES[before]:
        assert move_request(request, after, 3.0).state is after
    else:
        with pytest.raises(IllegalMove, match="request 200-0000000001 cannot go"):
            move_request(request, after, 3.0)


def test_an_illegal_move_tells_the_moves_before_it() -> None:
    node = move_node(a_node(NodeState.INIT), NodeState.BUILDING, 1.0)
    node = move_node(node, NodeState.READY, 2.0)
    with pytest.raises(IllegalMove, match=r"building at 1\.000, ready at 2\.000"):
        move_node(node, NodeState.USED, 3.0)


def test_history_is_bounded_and_no_part_of_a_record() -> None:
    node = a_node(NodeState.HOLD)
    for now in range(3 * MAX_HISTORY):
        node = move_node(node, NodeState.HOLD, float(now))
    assert len(node.history) == MAX_HISTORY
    bare = a_node(NodeState.HOLD)
    assert move_node(bare, NodeState.HOLD, 23.0) == node
    assert b"history" not in encode_node(node)
