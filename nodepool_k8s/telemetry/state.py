"""What is there right now, as figures want it: asked for when somebody looks, never before.

The launcher gives a source (``observe``); it costs nothing until the metrics are fetched
or statsd's timer is due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from nodepool_k8s.model import Component, Node, NodeRequest, empty


@dataclass(frozen=True, slots=True)
class PoolState:
    """One pool of this launcher. ``used`` and ``limits`` are in thousandths, by resource.

    ``limits`` lacks what is unlimited.
    """

    provider: str
    name: str
    queued: int = 0
    launching: int = 0
    paused: bool = False
    used: Mapping[str, int] = field(default_factory=empty)
    limits: Mapping[str, int] = field(default_factory=empty)


@dataclass(frozen=True, slots=True)
class TenantState:
    """A tenant that has limits, over all pools of all launchers; in thousandths."""

    name: str
    used: Mapping[str, int] = field(default_factory=empty)
    limits: Mapping[str, int] = field(default_factory=empty)


@dataclass(frozen=True, slots=True)
class State:
    """Everything, at one moment; what is last is by provider.

    ``connected``: whether its watches work; ``stuck``: nodes whose deletion takes too long;
    ``terminating``: namespaces that are on their way out.
    """

    requests: Collection[NodeRequest] = ()
    nodes: Collection[Node] = ()
    components: Collection[Component] = ()
    pools: Collection[PoolState] = ()
    tenants: Collection[TenantState] = ()
    connected: Mapping[str, bool] = field(default_factory=empty)
    stuck: Mapping[str, int] = field(default_factory=empty)
    terminating: Mapping[str, int] = field(default_factory=empty)


class Source(Protocol):
    """Who can tell the state; called on the event loop's thread, must not block."""

    def state(self) -> State:
        """What is there now."""
        ...


def nodes_by(nodes: Collection[Node]) -> Counter[tuple[str, str, str]]:
    """Count nodes by provider, label (the first, of several) and state."""
    return Counter(
        (node.provider or "", node.type[0] if node.type else "", node.state.value) for node in nodes
    )
