"""Where nodes are launched: what every part of a launch is told of its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nodepool_k8s.config.settings import Pool, Provider
from nodepool_k8s.kubernetes.cluster import Cluster
from nodepool_k8s.model import Node, NodeRequest
from nodepool_k8s.zookeeper.store import Store


@dataclass(frozen=True, slots=True)
class LaunchContext:
    """Where the nodes of one pool are launched, and under which settings.

    A launch keeps the one that it began with, whatever is configured meanwhile.
    """

    provider: Provider
    pool: Pool
    cluster: Cluster
    store: Store
    failed: Callable[[NodeRequest, Node, str], None]
    """Told of each attempt that failed, and why."""
