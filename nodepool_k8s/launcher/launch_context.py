"""Where the nodes of one pool are launched: what every part of a launch needs to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nodepool_k8s.config.settings import Pool, Provider
from nodepool_k8s.drivers.driver import Driver
from nodepool_k8s.model import Node, NodeRequest
from nodepool_k8s.zookeeper.store import Store


@dataclass(frozen=True, slots=True)
class LaunchContext:
    """One pool, its provider's driver, and the settings that hold for it.

    A launch keeps the context that it began with, whatever is configured meanwhile.
    """

    provider: Provider
    pool: Pool
    driver: Driver
    store: Store
    failed: Callable[[NodeRequest, Node, str], None]
    """Told of each attempt that failed, and why."""

    def is_usable(self, node: Node) -> bool:
        """Whether a ready node may be handed out, as far as the driver was told."""
        launch = self.pool.labels[node.type[0]].launch
        return self.driver.health.in_sync and self.driver.why_unusable(node, launch) is None
