"""The names and labels by which a node's objects are found again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nodepool_k8s.names import NAME_LENGTH, valid_name

Manifest = dict[str, Any]

DEPLOYMENT_LABEL = "nodepool-k8s/deployment"
NODE_ID_LABEL = "nodepool_node_id"
PROVIDER_LABEL = "nodepool_provider_name"
POOL_LABEL = "nodepool_pool_name"
NODE_LABEL_LABEL = "nodepool_node_label"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "nodepool-k8s"

OWN_LABELS = frozenset(
    {
        DEPLOYMENT_LABEL,
        NODE_ID_LABEL,
        PROVIDER_LABEL,
        POOL_LABEL,
        NODE_LABEL_LABEL,
        MANAGED_BY_LABEL,
    }
)

DO_NOT_EVICT_ANNOTATIONS: Mapping[str, str] = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
"""What tells autoscalers that an allocated node must stay."""


def namespace_name(pool: str, node_id: str, attempt: int = 0) -> str:
    """``<pool>-<node id>``; every attempt but the first adds its number.

    Never an attempt's name again: it could meet its predecessor still Terminating.
    """
    suffix = f"-{node_id}" + (f"-{attempt}" if attempt else "")
    return valid_name(pool, NAME_LENGTH - len(suffix)) + suffix


_NODE_ID = re.compile(r"-(\d{10})(?:-\d+)?$")


def node_id_in(namespace: str) -> str | None:
    """The node id in a namespace's name; None without one."""
    found = _NODE_ID.search(namespace)
    return found[1] if found else None


def valid_dynamic_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Leave out what would hide our own labels."""
    return {key: value for key, value in labels.items() if key not in OWN_LABELS}


def plain_labels(deployment: str) -> dict[str, str]:
    """Build the labels of what stands beside a node's pod: ours, and whose."""
    return {MANAGED_BY_LABEL: MANAGED_BY, DEPLOYMENT_LABEL: deployment}
