"""Paths of records in ZooKeeper: Nodepool's, and those below our own root."""

from __future__ import annotations

from urllib.parse import quote, unquote

from nodepool_k8s.model import (
    ProviderCluster,
)

NODEPOOL = "/nodepool"


REQUESTS = "/nodepool/requests"


REQUEST_LOCKS = "/nodepool/requests-lock"


NODES = "/nodepool/nodes"


POOL_COMPONENTS = "/nodepool/components/pool"


OWN = "/nodepool-k8s"
"""Our own root: never under a path that Nodepool lists."""


DEPLOYMENT = "/nodepool-k8s/deployment"


LEDGERS = "/nodepool-k8s/ledger"


TENANT_LEDGERS = "/nodepool-k8s/tenants"


MIN_READY_OWNERS = "/nodepool-k8s/min-ready"
"""One ephemeral znode per label, of the launcher that requests its spare nodes."""


PROVIDER_CLUSTERS = "/nodepool-k8s/clusters"


PROGRESS = "/nodepool-k8s/progress"
"""One ephemeral znode per request that asks for progress."""


LOCK_INFIX = "__lock__"
"""Between the contender's UUID and the sequence, in kazoo's lock recipe."""


def request_path(request_id: str) -> str:
    """The znode of a request."""
    return f"{REQUESTS}/{request_id}"


def request_lock_path(request_id: str) -> str:
    """The lock of a request; never a child of the request, or Zuul's delete would fail."""
    return f"{REQUEST_LOCKS}/{request_id}"


def node_path(node_id: str) -> str:
    """The znode of a node."""
    return f"{NODES}/{node_id}"


def node_lock_path(node_id: str) -> str:
    """The lock of a node."""
    return f"{NODES}/{node_id}/lock"


def ledger_path(provider: str, pool: str) -> str:
    """The quota ledger of a pool; names are quoted, as a znode's name may hold no slash."""
    return f"{LEDGERS}/{quote(provider, safe='')}/{quote(pool, safe='')}"


def pool_of_ledger(path: str) -> tuple[str, str] | None:
    """Provider and pool of a ledger's path; None for another path."""
    parts = path.removeprefix(LEDGERS + "/").split("/")
    return (unquote(parts[0]), unquote(parts[1])) if len(parts) == 2 else None


def tenant_ledger_path(tenant: str) -> str:
    """The quota ledger of a tenant, over all pools."""
    return f"{TENANT_LEDGERS}/{quote(tenant, safe='')}"


def tenant_of_ledger(path: str) -> str | None:
    """The tenant of a ledger's path; None for another path."""
    root, _, name = path.rpartition("/")
    return unquote(name) if root == TENANT_LEDGERS and name else None


def min_ready_path(label: str) -> str:
    """The znode of the launcher that requests a label's spare nodes."""
    return f"{MIN_READY_OWNERS}/{quote(label, safe='')}"


def label_of_min_ready(path: str) -> str | None:
    """The label of a ``min_ready_path``; None for another path."""
    root, _, name = path.rpartition("/")
    return unquote(name) if root == MIN_READY_OWNERS and name else None


def provider_cluster_path(cluster: ProviderCluster) -> str:
    """The record that a provider has or had nodes in a cluster."""
    return f"{PROVIDER_CLUSTERS}/{quote(f'{cluster.provider}@{cluster.cluster}', safe='')}"


def progress_path(request_id: str) -> str:
    """The record of what a request waits for."""
    return f"{PROGRESS}/{request_id}"
