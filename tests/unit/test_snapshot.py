"""The snapshot: records are counted by group, and texts lose their secrets at any depth."""

from nodepool_k8s.model import Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.snapshot import (
    LauncherSnapshot,
    LaunchingNode,
    NodeGroup,
    PoolSnapshot,
    RequestGroup,
    ServedRequest,
    count_records,
    redact_texts,
)

TOKEN = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


def test_records_are_counted_by_group() -> None:
    counts = count_records(
        [
            Node("1", NodeState.READY, ("a", "b"), provider="one"),
            Node("2", NodeState.READY, ("a", "b"), provider="one"),
            Node("3", NodeState.READY, ("a",), provider="one"),
            Node("4", NodeState.INIT),
        ],
        [
            NodeRequest("200-1", RequestState.PENDING, ("a",)),
            NodeRequest("200-2", RequestState.REQUESTED, ("a",)),
            NodeRequest("200-3", RequestState.REQUESTED, ("a",)),
        ],
        [],
    )
    assert counts.nodes == {
        NodeGroup("one", ("a", "b"), NodeState.READY): 2,
        NodeGroup("one", ("a",), NodeState.READY): 1,
        NodeGroup("", (), NodeState.INIT): 1,
    }
    assert counts.requests == {
        RequestGroup(("a",), RequestState.PENDING): 1,
        RequestGroup(("a",), RequestState.REQUESTED): 2,
    }
    assert list(counts.nodes_by_state().items()) == [(NodeState.INIT, 1), (NodeState.READY, 3)]
    assert list(counts.requests_by_state().items()) == [
        (RequestState.REQUESTED, 2),
        (RequestState.PENDING, 1),
    ]


def test_secrets_are_removed_at_any_depth() -> None:
    node = LaunchingNode("1", "pod", None, NodeState.BUILDING, "its turn", f"got {TOKEN}")
    snapshot = LauncherSnapshot(
        obstacles=(f"refused {TOKEN}",),
        pools=(PoolSnapshot("one", "main", waits_for=TOKEN, paused=None),),
        in_flight=(ServedRequest("200-1", "one/main", TOKEN, 5.0, (node,)),),
    )
    redacted = redact_texts(snapshot)
    assert "eyJ" not in str(redacted)
    assert redacted.in_flight[0].nodes[0].state is NodeState.BUILDING
    assert redacted.in_flight[0].created_at == 5.0
    assert redacted.pools[0].paused is None
