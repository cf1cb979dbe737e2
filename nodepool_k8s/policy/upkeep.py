"""Which nodes are due for deletion, which requests were left behind, what has leaked. Pure."""

from __future__ import annotations

from nodepool_k8s.model import Namespace, Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.wire import own_data

_REMOVABLE = {
    NodeState.USED: "it was used",
    NodeState.IN_USE: "its requestor is gone",
    NodeState.BUILDING: "its launcher is gone",
    NodeState.TESTING: "its launcher is gone",
    NodeState.FAILED: "its launch failed",
    NodeState.DELETING: "its deletion was begun",
    NodeState.DELETED: "its deletion was begun",
    NodeState.ABORTED: "its launch was aborted",
}

DRAFT_SECONDS = 60.0
"""A drafted node that was not claimed by then belongs to a launcher that died."""


def why_delete(node: Node, *, locked: bool, request_exists: bool) -> str | None:
    """Why a node that was claimed by a launcher of ours is to be deleted; None: it is not.

    ``request_exists`` is about the request that the node is allocated to.
    """
    if locked or node.claimed is None:
        return None
    if node.state is NodeState.READY and node.allocated_to and not request_exists:
        return f"request {node.allocated_to} is gone"
    return _REMOVABLE.get(node.state)


def is_lost_draft(node: Node, now: float) -> bool:
    """Whether a node is a draft of ours that nobody will claim any more."""
    return (
        node.state is NodeState.INIT
        and node.claimed is None
        and bool(own_data(node))
        and now - node.state_time > DRAFT_SECONDS
    )


def is_left_behind(request: NodeRequest, *, locked: bool) -> bool:
    """Whether a request was taken by a launcher that is gone."""
    return request.state is RequestState.PENDING and not locked


def is_suspect(namespace: Namespace, node: Node | None) -> bool:
    """Whether a namespace of our deployment seems to belong to no node.

    Only a suspicion, made from mirrors: the caller asks ZooKeeper before acting on it.
    """
    if namespace.deleting:
        return False
    return node is None or node.external_id != namespace.name
