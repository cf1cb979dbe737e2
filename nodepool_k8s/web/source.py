"""What the web server asks the launcher; all of it is answered from memory, at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from nodepool_k8s.config.settings import TopLabel
from nodepool_k8s.model import Component, Node, NodeRequest


class Records(Protocol):
    """The records of ZooKeeper, as last heard of."""

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
        """Whether anybody holds or contends for the node's lock."""


class Source(Protocol):
    """The launcher, as far as it shows itself."""

    @property
    def records(self) -> Records | None:
        """The records; None while they are not known."""

    @property
    def labels(self) -> Mapping[str, TopLabel]:
        """The configuration's top-level labels."""

    def obstacles(self) -> Collection[str]:
        """Why the launcher cannot work now, a sentence each; empty when it can."""

    def status(self, now: float) -> dict[str, Any]:
        """What it is doing, as JSON values: see ``launcher.view``."""
