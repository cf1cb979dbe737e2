"""The states of nodes and requests, and which state may follow which. Pure.

The only place that changes the state of a record. The states are Nodepool's; the moves are
those of this launcher, of its admin commands and of requestors that use its client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nodepool_k8s.errors import NodepoolK8sError
from nodepool_k8s.model import History, Node, NodeRequest, NodeState, RequestState

MAX_HISTORY = 8
"""Moves that a record remembers, in this process only."""

NODE_MOVES: Mapping[NodeState, frozenset[NodeState]] = {
    NodeState.INIT: frozenset({NodeState.BUILDING, NodeState.DELETING}),
    NodeState.BUILDING: frozenset({NodeState.READY, NodeState.DELETING}),
    NodeState.TESTING: frozenset({NodeState.HOLD, NodeState.DELETING}),
    NodeState.READY: frozenset({NodeState.IN_USE, NodeState.HOLD, NodeState.DELETING}),
    NodeState.IN_USE: frozenset({NodeState.USED, NodeState.HOLD, NodeState.DELETING}),
    # Holding again changes the comment or the time.
    NodeState.HOLD: frozenset({NodeState.HOLD, NodeState.USED, NodeState.DELETING}),
    NodeState.USED: frozenset({NodeState.HOLD, NodeState.DELETING}),
    NodeState.FAILED: frozenset({NodeState.DELETING}),
    NodeState.ABORTED: frozenset({NodeState.DELETING}),
    # Deleting again: an interrupted deletion is resumed, or has another reason.
    NodeState.DELETING: frozenset({NodeState.DELETING, NodeState.DELETED}),
    NodeState.DELETED: frozenset({NodeState.DELETING, NodeState.DELETED}),
}
"""The states that may follow each state of a node."""

REQUEST_MOVES: Mapping[RequestState, frozenset[RequestState]] = {
    # Requested again: one pool declined the request, and others have not answered.
    RequestState.REQUESTED: frozenset(
        {RequestState.REQUESTED, RequestState.PENDING, RequestState.FAILED}
    ),
    RequestState.PENDING: frozenset(
        {RequestState.REQUESTED, RequestState.FULFILLED, RequestState.FAILED}
    ),
    RequestState.FULFILLED: frozenset(),
    RequestState.FAILED: frozenset(),
}
"""The states that may follow each state of a request."""


class IllegalMove(NodepoolK8sError):
    """A record cannot go from its state to that one: a bug in the caller."""


def may_move_node(node: Node, state: NodeState) -> bool:
    """Whether ``state`` may follow the state of the node."""
    return state in NODE_MOVES[node.state]


def move_node(node: Node, state: NodeState, now: float, **changes: Any) -> Node:
    """Return the node in its next state, with fields changed; ``now`` is in epoch seconds.

    Raises IllegalMove with the recent moves of the record.
    """
    if not may_move_node(node, state):
        raise _illegal("node", node, state)
    history = _with_move(node.history, state, now)
    return replace(node, state=state, state_time=now, history=history, **changes)


def move_request(
    request: NodeRequest, state: RequestState, now: float, **changes: Any
) -> NodeRequest:
    """Return the request in its next state, as ``move_node`` does."""
    if state not in REQUEST_MOVES[request.state]:
        raise _illegal("request", request, state)
    history = _with_move(request.history, state, now)
    return replace(request, state=state, state_time=now, history=history, **changes)


def _with_move(history: History, state: str, now: float) -> History:
    return (*history, (str(state), now))[-MAX_HISTORY:]


def _illegal(kind: str, record: Node | NodeRequest, state: str) -> IllegalMove:
    moves = ", ".join(f"{name} at {time:.3f}" for name, time in record.history)
    return IllegalMove(
        f"{kind} {record.id} cannot go from {record.state} to {state}; "
        f"its moves in this process: {moves or 'none'}"
    )
