"""What a launcher is doing at one moment: the record that everything shown is made from.

The web page and its JSON, Prometheus, statsd, the dump on SIGUSR2 and systemd's status line
read it. Times are seconds since the epoch, amounts of resources are thousandths, and texts
that others wrote have lost their secrets. ``launcher/snapshot.py`` takes it when something
asks; nothing is counted in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from nodepool_k8s import __version__
from nodepool_k8s.model import Component, Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.redaction import redact_text

T = TypeVar("T")


class NodeGroup(NamedTuple):
    """Nodes that are counted together; ``provider`` is empty where the record names none."""

    provider: str
    labels: tuple[str, ...]
    state: NodeState


class RequestGroup(NamedTuple):
    """Requests that are counted together: those for the same labels in the same order."""

    labels: tuple[str, ...]
    state: RequestState


@dataclass(frozen=True, slots=True)
class RecordCounts:
    """ZooKeeper's records, of all launchers: how many there are of each kind."""

    nodes: Mapping[NodeGroup, int] = field(default_factory=dict)
    requests: Mapping[RequestGroup, int] = field(default_factory=dict)
    components: tuple[Component, ...] = ()
    """The registered pools."""

    def nodes_by_state(self) -> dict[NodeState, int]:
        """Nodes in each state, without zeros, in the order in which a node enters them."""
        counts = _by_state(self.nodes)
        return {state: counts[state] for state in NodeState if counts[state]}

    def requests_by_state(self) -> dict[RequestState, int]:
        """Requests in each state, without zeros, in the order in which a request enters them."""
        counts = _by_state(self.requests)
        return {state: counts[state] for state in RequestState if counts[state]}


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """How much of one resource is used, in thousandths; a ``limit`` of None is no limit."""

    name: str
    used: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """One of this launcher's configured pools."""

    provider: str
    name: str
    priority: int = 100
    labels: tuple[str, ...] = ()
    """Names of the labels that it serves, sorted."""
    paused: bool | None = None
    """Whether it is registered as paused; None while it is not registered."""
    waiting: int = 0
    """Requests in its queue."""
    waits_for: str = ""
    """What the first request in its queue waits for; empty where nothing waits."""
    launching: int = 0
    """Nodes being launched."""
    resources: tuple[ResourceUsage, ...] = ()
    """Every resource that is limited or used; deleting nodes count."""

    @property
    def key(self) -> str:
        """``provider/pool``."""
        return f"{self.provider}/{self.name}"


@dataclass(frozen=True, slots=True)
class ProviderSnapshot:
    """One of this launcher's configured providers."""

    name: str
    context: str | None = None
    trouble: str = ""
    """Why its backend cannot be used now; empty when it can."""
    launches: int = 0
    """Launch slots in use, of at most ``max_concurrency``."""
    max_concurrency: int | None = None
    terminating: int | None = None
    """Objects of ours whose deletion goes on; None while the backend is not known."""

    @property
    def in_touch(self) -> bool:
        """Whether its backend can be used now."""
        return not self.trouble


@dataclass(frozen=True, slots=True)
class TenantSnapshot:
    """A tenant that has limits: what it uses in all pools of all launchers."""

    name: str
    resources: tuple[ResourceUsage, ...] = ()
    """What is limited."""


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A request in a pool's queue; one that waits for several pools appears once for each."""

    id: str
    pool: str
    """``provider/pool``."""
    requestor: str
    labels: tuple[str, ...]
    created_at: float
    waits_for: str


@dataclass(frozen=True, slots=True)
class LaunchingNode:
    """A node of a request that is being served."""

    id: str
    label: str
    """All its labels, joined by commas."""
    external_id: str | None
    state: NodeState
    waits_for: str
    failure: str
    """Why its last attempt failed; empty where none did."""


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """A request that this launcher has claimed and is fulfilling."""

    id: str
    pool: str
    """``provider/pool``."""
    requestor: str
    created_at: float
    nodes: tuple[LaunchingNode, ...]


@dataclass(frozen=True, slots=True)
class RecentFailure:
    """An attempt to launch a node that failed, or a request that was declined."""

    at: float
    request_id: str
    node_id: str | None
    """None where a request was declined."""
    labels: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class StuckDeletion:
    """A deletion that takes too long."""

    external_id: str | None
    provider: str | None
    node_id: str | None
    """None where the node's record is gone already."""
    since: float
    held_by: str


@dataclass(frozen=True, slots=True)
class LauncherSnapshot:
    """A launcher at one moment. Lists of requests may be cut; the counts are of all."""

    taken_at: float = 0.0
    started_at: float = 0.0
    version: str = __version__
    obstacles: tuple[str, ...] = ()
    """Why no request can be served now, a sentence each; empty when requests are served."""
    pools: tuple[PoolSnapshot, ...] = ()
    providers: tuple[ProviderSnapshot, ...] = ()
    tenants: tuple[TenantSnapshot, ...] = ()
    waiting_count: int = 0
    waiting: tuple[WaitingRequest, ...] = ()
    """The first of them, pool by pool in the order of its queue."""
    in_flight_count: int = 0
    in_flight: tuple[ServedRequest, ...] = ()
    """The first of them, in the order in which they were claimed."""
    failures: tuple[RecentFailure, ...] = ()
    """The last ones, newest first."""
    stuck: tuple[StuckDeletion, ...] = ()
    records: RecordCounts = field(default_factory=RecordCounts)


def count_records(
    nodes: Iterable[Node], requests: Iterable[NodeRequest], components: Iterable[Component]
) -> RecordCounts:
    """Count the records, each looked at once."""
    by_node = Counter((node.provider or "", node.type, node.state) for node in nodes)
    by_request = Counter((request.node_types, request.state) for request in requests)
    return RecordCounts(
        {NodeGroup(*key): count for key, count in by_node.items()},
        {RequestGroup(*key): count for key, count in by_request.items()},
        tuple(components),
    )


def redact_texts(value: T) -> T:
    """The record, at any depth of tuples and dataclasses, without secrets in its texts."""
    redacted: Any = value
    if isinstance(value, str) and not isinstance(value, Enum):
        redacted = redact_text(value)
    elif isinstance(value, tuple):
        redacted = tuple(redact_texts(item) for item in value)
    elif is_dataclass(value) and not isinstance(value, type):
        changes = {each.name: redact_texts(getattr(value, each.name)) for each in fields(value)}
        redacted = replace(value, **changes)
    return redacted  # type: ignore[no-any-return]


def _by_state(counts: Mapping[Any, int]) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for group, count in counts.items():
        total[group.state] += count
    return total
