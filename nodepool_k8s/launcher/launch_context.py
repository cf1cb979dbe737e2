"""Where the nodes of one pool are launched: what every part of a launch needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nodepool_k8s.config.settings import Pool, Provider
from nodepool_k8s.drivers.driver import Driver
from nodepool_k8s.model import Node, NodeRequest
from nodepool_k8s.zookeeper.store import Store


class FailureObserver(Protocol):
    """Wants to know why launches fail."""

    def attempt_failed(self, request: NodeRequest, node: Node, reason: str) -> None:
        """An attempt to launch a node of that request failed."""


class LaunchObserver(FailureObserver, Protocol):
    """Wants to know how launches go on."""

    def progressed(self) -> None:
        """What a request waits for, in a queue or while it is launched, may have changed."""


@dataclass(frozen=True, slots=True)
class LaunchContext:
    """One pool, its provider's driver, and the settings that hold for it.

    A launch keeps the context that it began with, whatever is configured meanwhile.
    """

    provider: Provider
    pool: Pool
    driver: Driver
    store: Store
    component_id: str
    """The id under which the pool is registered."""
    observer: LaunchObserver

    def is_usable(self, node: Node) -> bool:
        """Whether a ready node may be handed out, as far as the driver was told."""
        launch = self.pool.labels[node.type[0]].launch
        return self.driver.health.in_sync and self.driver.why_unusable(node, launch) is None
