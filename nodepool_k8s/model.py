"""The records that all layers use: requests, nodes, resources, and their states.

Plain frozen data. ``znodes`` owns their form in ZooKeeper, ``policy`` the decisions about them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeAlias, TypedDict

EMPTY: Mapping[str, Any] = MappingProxyType({})


def empty() -> Mapping[str, Any]:
    """The empty mapping, as a dataclass wants its default (a proxy is not hashable)."""
    return EMPTY


MILLI = 1000


MIN_READY = "NodePool:min-ready"
"""The requestor of spare nodes: Nodepool's name, known to every launcher."""


class RequestState(StrEnum):
    """States of a node request; Nodepool's, so that Zuul and Nodepool know them."""

    REQUESTED = "requested"
    PENDING = "pending"
    FULFILLED = "fulfilled"
    FAILED = "failed"


class NodeState(StrEnum):
    """States of a node; Nodepool's, which fails on any other."""

    INIT = "init"
    BUILDING = "building"
    TESTING = "testing"
    READY = "ready"
    IN_USE = "in-use"
    USED = "used"
    HOLD = "hold"
    DELETING = "deleting"
    DELETED = "deleted"
    FAILED = "failed"
    ABORTED = "aborted"


class LabelType(StrEnum):
    """What a label's node is: a namespace alone, or a namespace with a pod."""

    NAMESPACE = "namespace"
    POD = "pod"


INSTANCES = "instances"
"""Nodepool's name, in a node's ``resources``, of what ``max-servers`` limits."""
CORES = "cores"
RAM = "ram"
"""MiB."""
STORAGE = "ephemeral-storage"
"""MB."""


class Resources(Mapping[str, int]):
    """Amounts by name, in thousandths, so that sums are exact.

    Names are Nodepool's: ``instances``, ``cores``, ``ram`` (MiB),
    ``ephemeral-storage`` (MB), and any name of ``max-resources``. Zero amounts are
    left out; a missing name reads as 0 through ``amount``.
    """

    __slots__ = ("_milli",)

    def __init__(self, milli: Mapping[str, int] = EMPTY) -> None:
        self._milli = {name: amount for name, amount in milli.items() if amount}

    @classmethod
    def of(cls, **amounts: float) -> Resources:
        """Build from whole units: ``Resources.of(instances=1, cores=0.5)``."""
        return cls.from_numbers(amounts)

    @classmethod
    def from_numbers(cls, amounts: Mapping[str, float]) -> Resources:
        """Build from whole units, rounded up to the thousandth."""
        return cls({name: _to_milli(amount) for name, amount in amounts.items()})

    def numbers(self) -> dict[str, int | float]:
        """Whole units, as JSON numbers: integers where they are whole."""
        return {name: whole_units(milli) for name, milli in self._milli.items()}

    def amount(self, name: str) -> int:
        """Thousandths of ``name``; 0 if it is missing."""
        return self._milli.get(name, 0)

    def __add__(self, other: Resources) -> Resources:
        names = self._milli.keys() | other._milli.keys()
        return Resources({name: self.amount(name) + other.amount(name) for name in names})

    def __sub__(self, other: Resources) -> Resources:
        names = self._milli.keys() | other._milli.keys()
        return Resources({name: self.amount(name) - other.amount(name) for name in names})

    def __mul__(self, count: int) -> Resources:
        return Resources({name: amount * count for name, amount in self._milli.items()})

    def __getitem__(self, name: str) -> int:
        return self._milli[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._milli))

    def __len__(self) -> int:
        return len(self._milli)

    def __hash__(self) -> int:
        return hash(frozenset(self._milli.items()))

    def __repr__(self) -> str:
        return f"Resources({self.numbers()})"


def whole_units(milli: int) -> int | float:
    """Thousandths as a JSON number of whole units: an integer where it is whole."""
    return milli // MILLI if milli % MILLI == 0 else milli / MILLI


def _to_milli(amount: float) -> int:
    milli = amount * MILLI
    whole = round(milli)
    # 0.1 * 1000 is not exactly 100: only a real remainder rounds up.
    return whole if abs(milli - whole) < 1e-6 else int(milli) + 1


History: TypeAlias = tuple[tuple[str, float], ...]
"""The states that a record entered in this process, each with its time in epoch seconds."""


@dataclass(frozen=True, slots=True)
class NodeRequest:
    """A node request as of ``version`` in ZooKeeper.

    Times are seconds since the epoch. ``extra`` keeps every key that this launcher
    does not use, so that writing the record loses nothing.
    """

    id: str
    state: RequestState
    node_types: tuple[str, ...]
    nodes: tuple[str, ...] = ()
    requestor: str = ""
    requestor_data: Any = None
    provider: str | None = None
    relative_priority: int = 0
    event_id: str | None = None
    tenant_name: str | None = None
    created_time: float | None = None
    state_time: float = 0.0
    declined_by: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=empty)
    version: int = -1
    history: History = field(default=(), compare=False)

    @property
    def for_spare(self) -> bool:
        """Whether it asks for a spare node (``min-ready``)."""
        return self.requestor == MIN_READY

    @property
    def priority(self) -> str:
        """The priority in the id (``200-0000000001``), compared as text like Nodepool does."""
        return self.id.partition("-")[0]

    @property
    def sequence(self) -> str:
        """The sequence in the id: the order of submission."""
        return self.id.rpartition("-")[2]


class DriverData(TypedDict, total=False):
    """What a launcher keeps in its own part of a node's ``driver_data``.

    The core writes ``context``, ``cluster``, ``reason`` and ``steps``, a driver the rest.
    """

    type: str
    """A ``LabelType``: what the node is made of."""
    replicas: int
    """How many pods it has, if not one."""
    outlives_pods: bool
    """Whether it uses resources until its namespace is gone."""
    uid: str
    """What the backend calls the current attempt."""
    token_expires: float | None
    """Epoch seconds; None for a token that does not expire."""
    token_issued: float
    """Epoch seconds."""
    context: str | None
    """Of kube/config, where the node was created."""
    cluster: str
    """The identity of the backend where it was created."""
    reason: str
    """Why it is being deleted."""
    steps: Mapping[str, float]
    """How long each step of its launch took, in seconds."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as of ``version`` in ZooKeeper.

    ``claimed`` is what the quota ledger holds for it (None: not in the ledger, for
    example another launcher's); ``counted_for`` is the tenant whose ledger holds it as
    well (None: none does). ``extra`` keeps every other key.
    """

    id: str
    state: NodeState
    type: tuple[str, ...] = ()
    provider: str | None = None
    pool: str | None = None
    launcher: str | None = None
    allocated_to: str | None = None
    tenant_name: str | None = None
    requestor: str | None = None
    external_id: str | None = None
    created_time: float | None = None
    state_time: float = 0.0
    resources: Resources | None = None
    claimed: Resources | None = None
    counted_for: str | None = None
    driver_data: Mapping[str, Any] = field(default_factory=empty)
    extra: Mapping[str, Any] = field(default_factory=empty)
    version: int = -1
    history: History = field(default=(), compare=False)

    @property
    def unused(self) -> bool:
        """Whether it is ready and not allocated, so any request may get it."""
        return self.state is NodeState.READY and self.allocated_to is None


@dataclass(frozen=True, slots=True)
class Component:
    """A pool as its launcher registered it, ours and Nodepool's alike."""

    id: str
    provider_name: str | None
    supported_labels: frozenset[str]
    priority: int = 100
    paused: bool = False
    pool: str = ""
    """The pool's name (the record's ``name``); empty where the record has none."""


@dataclass(frozen=True, slots=True)
class ProviderCluster:
    """A cluster that has nodes of a provider.

    ``context`` is its name in kube/config (None: not named). ``cluster`` identifies it even
    if the context later names another cluster.
    """

    provider: str
    context: str | None
    cluster: str


class Phase(StrEnum):
    """How far a request is, for its requestor."""

    QUEUED = "queued"
    LAUNCHING = "launching"


@dataclass(frozen=True, slots=True)
class Progress:
    """What a request that asks for progress waits for, in one pool (``provider/pool``).

    ``why`` is for a person. ``position`` is the place in the pool's queue, 1 for the first;
    ``node`` (an id) and ``step`` belong to the first of its nodes that is not ready yet.
    """

    phase: Phase
    pool: str
    why: str
    position: int | None = None
    node: str | None = None
    step: str | None = None


@dataclass(frozen=True, slots=True)
class Ledger:
    """A quota ledger of a pool or a tenant, as of ``version``."""

    claimed: Resources
    version: int


# --- what the Kubernetes adapter tells about pods --------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of a pod's ``status.conditions``."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class ContainerState:
    """A container of a pod and the state it is in: waiting, running or terminated."""

    name: str
    state: str
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    restart_count: int = 0
    init: bool = False
    last_reason: str = ""
    """Why it last ended (``OOMKilled``), if it was restarted since."""
    last_exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """The parts of a pod's status that decisions depend on."""

    namespace: str
    name: str
    uid: str
    phase: str
    conditions: tuple[Condition, ...] = ()
    containers: tuple[ContainerState, ...] = ()
    host: str | None = None
    """The Kubernetes node it was scheduled to."""
    reason: str = ""
    message: str = ""
    deleting: bool = False
    grace: int = 30
    """Its ``terminationGracePeriodSeconds``."""
    scheduler: str = ""
    """The name of the scheduler that it waits for."""

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, or None."""
        return next((entry for entry in self.conditions if entry.type == kind), None)


@dataclass(frozen=True, slots=True)
class Namespace:
    """The parts of one of our namespaces that decisions depend on."""

    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=empty)
    deleting: bool = False
    deleted_at: float | None = None
    """When its deletion was accepted, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class SourceContent:
    """The content of a Secret or ConfigMap that is copied to nodes; never printed.

    ``data`` and ``binary`` are as in the API: a Secret's in base64.
    """

    type: str = ""
    """A Secret's."""
    data: Mapping[str, str] = field(default_factory=empty, repr=False)
    binary: Mapping[str, str] = field(default_factory=empty, repr=False)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token for the node's service account; never printed.

    ``expires`` is in seconds since the epoch, None for one that does not expire.
    """

    token: str = field(repr=False)
    expires: float | None = None
