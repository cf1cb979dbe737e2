"""What the web server reads of the launcher: everything is in memory and returned at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from nodepool_k8s.config.settings import TopLabel
from nodepool_k8s.model import Component, Node, NodeRequest
from nodepool_k8s.snapshot import LauncherSnapshot


class MirroredRecords(Protocol):
    """The records of ZooKeeper, as the mirror has them."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Every node, by id."""

    @property
    def requests(self) -> Mapping[str, NodeRequest]:
        """Every request, by id."""

    @property
    def components(self) -> Mapping[str, Component]:
        """Every registered pool, by its znode's name."""

    def node_locked(self, node_id: str) -> bool:
        """Whether something holds or contends for the node's lock."""


class LauncherSource(Protocol):
    """What the launcher shows of itself."""

    @property
    def records(self) -> MirroredRecords | None:
        """The records; None while they are not known."""

    @property
    def labels(self) -> Mapping[str, TopLabel]:
        """The configuration's top-level labels."""

    def obstacles(self) -> Collection[str]:
        """Why the launcher cannot work now, a sentence each; empty when it can."""

    def snapshot(self) -> LauncherSnapshot:
        """What the launcher is doing now."""
