"""What must be true, checked at every event. Plain records in, violations out; no IO.

Events of records come in ZooKeeper's order, and those of pods in the API server's; the two
have no common clock, so checks that compare them allow some seconds to agree.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from faults.history import History
from faults.plan import BOUND_S, LIMITED_TENANT, Limits

Record = dict[str, Any]

RELOAD_S = 20.0
"""How long a launcher may still use a limit that was lowered: a frozen one reads nothing, and
launches that have begun end under the old limits."""
AGREE_S = 3.0
"""How long the two servers' views may differ."""
SECRET_LENGTH = 40
"""Shorter texts under a secret's key are not tokens."""


@dataclass(frozen=True)
class Violation:
    """One promise that was broken."""

    when: float
    rule: str
    what: str
    objects: tuple[str, ...]
    """The objects whose histories explain it."""


@dataclass
class LimitsInForce:
    """The limits by time: while a launcher may still use an older one, the highest counts."""

    history: History
    _set: deque[tuple[float, Limits]] = field(default_factory=deque)

    def set(self, limits: Limits) -> None:
        """From now on the configuration says so."""
        self._set.append((self.history.now(), limits))

    def now(self) -> Limits:
        """The highest that any launcher may still use."""
        # Limits set before the newest one that is older than RELOAD_S are out of use.
        while len(self._set) > 1 and self._set[1][0] < self.history.now() - RELOAD_S:
            self._set.popleft()
        each = [limits for _, limits in self._set]
        return Limits(max(one.pool for one in each), max(one.tenant for one in each))


class Judge:
    """Tracks every object while it exists, and records each violation once."""

    def __init__(self, history: History, upkeep: float) -> None:
        self.history = history
        self.limits = LimitsInForce(history)
        self.violations: list[Violation] = []
        self.counts: Counter[str] = Counter()
        """What was seen, by kind: nodes, answers, the most nodes at a time."""
        self.fulfilled_at: list[float] = []
        self.secrets: set[str] = set()
        self._orphan_s = upkeep + BOUND_S
        self._requests: dict[str, Record] = {}
        self._nodes: dict[str, Record] = {}
        self._granted: dict[str, str] = {}
        """The request that each node was last allocated to."""
        self._accepted: dict[str, str] = {}
        """Nodes that a requestor has accepted, and for which request."""
        self._leased: set[str] = set()
        self._withdrawn: set[str] = set()
        self._namespaces: dict[str, str] = {}
        """Namespaces that are not being deleted, and the node of each."""
        self._orphans: dict[str, float] = {}
        self._locks: dict[str, dict[str, float]] = {}
        """By request: the contenders for its lock, and since when each is one without it."""
        self._pods: dict[str, str] = {}
        """Pods by UID, and the namespace of each."""
        self._crowded: float | None = None
        self.catching_up = False
        """Whether records are being read again after a gap: old and new ones are mixed then."""

    # --- what the load reports --------------------------------------------------------------------

    def withdrawn(self, request: str) -> None:
        """A requestor is about to remove its request."""
        self._withdrawn.add(request)
        self.history.note("its requestor removes it", request)

    def accepted(self, request: str, node: str) -> None:
        """A requestor has locked the node and is about to use it."""
        self._accepted[node] = request
        self._leased.add(node)
        self.history.note("accepted", request, node)

    def released(self, node: str, how: str) -> None:
        """A requestor is about to release the node."""
        self._leased.discard(node)
        self.history.note(how, node)

    def accuse(self, rule: str, what: str, *objects: str) -> None:
        """Record a violation."""
        violation = Violation(self.history.now(), rule, what, objects)
        same = [each for each in self.violations if each.rule == rule and each.what == what]
        if not same:
            self.violations.append(violation)
        self.history.note(f"VIOLATION: {rule}: {what}", *objects)

    # --- requests --------------------------------------------------------------------------------

    def request_changed(self, request: str, record: Record) -> None:
        """A request came or changed."""
        before = self._requests.get(request, {})
        self._requests[request] = record
        state, nodes = record["state"], record.get("nodes") or []
        self.history.note(f"{state}, nodes {nodes}", request)
        if state == before.get("state"):
            return
        if state == "fulfilled":
            self._fulfilled(request, nodes)
        elif state == "failed" and not reasons(record):
            self.accuse("failed with a reason", f"request {request} failed without one", request)

    def request_gone(self, request: str) -> None:
        """A request was removed."""
        record = self._requests.pop(request, None)
        self.history.note("removed", request)
        if record is None or is_spare(record):
            return
        if request not in self._withdrawn:
            what = f"request {request} was removed, and not by its requestor"
            self.accuse("no request is lost", what, request)

    def only_requests(self, requests: set[str]) -> None:
        """After a gap: only these exist; the changed ones are reported again."""
        for request in self._requests.keys() - requests:
            self.request_gone(request)

    def lock_changed(self, request: str, contender: str, *, there: bool) -> None:
        """A contender for a request's lock came or left."""
        contenders = self._locks.setdefault(request, {})
        if there:
            contenders[contender] = self.history.now()
        else:
            contenders.pop(contender, None)
        if not contenders:
            del self._locks[request]

    def forget_locks(self) -> None:
        """After a gap: only contenders from now on are known."""
        self._locks.clear()

    def _fulfilled(self, request: str, nodes: list[str]) -> None:
        if not is_spare(self._requests[request]):
            self.fulfilled_at.append(self.history.now())
        for node in nodes:
            other = self._granted.get(node, request)
            if other != request and (other in self._requests or self._accepted.get(node) == other):
                what = f"node {node} was given to {request}, and {other} has it"
                self.accuse("a node is given once", what, request, other, node)
            self._granted[node] = request

    # --- nodes -----------------------------------------------------------------------------------

    def node_changed(self, node: str, record: Record) -> None:
        """A node's record came or changed."""
        before = self._nodes.get(node)
        self._nodes[node] = record
        self.secrets |= tokens(record)
        self.history.note(
            f"{record['state']}, for {record.get('allocated_to')}, in {record.get('external_id')}",
            node,
        )
        if claimed(record) and (before is None or not claimed(before)):
            self.counts["nodes"] += 1
            self._check_limits(node)
        elif limited(record) and before is not None and not limited(before):
            self._check_limits(node)

    def node_gone(self, node: str) -> None:
        """A node's record was removed."""
        self._nodes.pop(node, None)
        self.history.note("removed", node)
        if node in self._leased:
            self._leased.discard(node)
            what = f"node {node} was removed while its requestor used it"
            self.accuse("a node in use stays", what, node)

    def only_nodes(self, nodes: set[str]) -> None:
        """After a gap: only these exist; the changed ones are reported again."""
        for node in self._nodes.keys() - nodes:
            self.node_gone(node)

    def _check_limits(self, node: str) -> None:
        if self.catching_up:
            return
        limits = self.limits.now()
        held = [name for name, record in self._nodes.items() if claimed(record)]
        theirs = [name for name in held if limited(self._nodes[name])]
        self.counts["most nodes"] = max(self.counts["most nodes"], len(held))
        self.counts["most of the tenant"] = max(self.counts["most of the tenant"], len(theirs))
        if len(held) > limits.pool:
            what = f"{len(held)} nodes where {limits.pool} are allowed, with node {node}"
            self.accuse("no pool is above its limit", what, *held)
        if len(theirs) > limits.tenant:
            what = f"{len(theirs)} of the tenant, {limits.tenant} allowed, with node {node}"
            self.accuse("no tenant is above its limit", what, *theirs)

    # --- the cluster -----------------------------------------------------------------------------

    def namespace_changed(self, name: str, node: str, *, deleting: bool) -> None:
        """A namespace of the deployment came or changed."""
        self.history.note("Terminating" if deleting else "there", name, node)
        if deleting:
            self.namespace_gone(name)
        else:
            self._namespaces[name] = node

    def namespace_gone(self, name: str) -> None:
        """A namespace was removed."""
        self._namespaces.pop(name, None)
        self._orphans.pop(name, None)

    def pod_changed(self, uid: str, namespace: str, *, deleting: bool) -> None:
        """A pod of the deployment came or changed."""
        if deleting:
            self._pods.pop(uid, None)
            self.history.note("its pod ends", namespace)
        elif uid not in self._pods:
            self._pods[uid] = namespace
            self.counts["pods"] += 1
            self.history.note("its pod is there", namespace)

    def pod_gone(self, uid: str) -> None:
        """A pod was removed."""
        self._pods.pop(uid, None)

    def only_namespaces(self, names: set[str]) -> None:
        """After a gap: only these exist."""
        for name in self._namespaces.keys() - names:
            self.namespace_gone(name)

    def only_pods(self, uids: set[str]) -> None:
        """After a gap: only these exist."""
        for uid in self._pods.keys() - uids:
            self.pod_gone(uid)

    # --- what is wrong only after some time -------------------------------------------------------

    def look(self) -> None:
        """Find states that have lasted too long; to be called now and then."""
        self._look_at_namespaces()
        self._look_at_pods()
        self._look_at_locks()

    def _look_at_locks(self) -> None:
        now = self.history.now()
        for request, contenders in self._locks.items():
            for contender, since in contenders.items():
                if request in self._requests:
                    contenders[contender] = now
                elif now - since > self._orphan_s:
                    what = f"{contender} has the lock of request {request}, which is gone"
                    self.accuse("no lock without an owner", what, request)

    def _look_at_namespaces(self) -> None:
        now = self.history.now()
        for name, node in self._namespaces.items():
            record = self._nodes.get(node)
            if record is not None and record.get("external_id") == name:
                self._orphans.pop(name, None)
            elif now - self._orphans.setdefault(name, now) > self._orphan_s:
                what = f"namespace {name} without a record for {self._orphan_s:.0f} s"
                self.accuse("every namespace has a record", what, name, node)

    def _look_at_pods(self) -> None:
        # A pod in a namespace that is being deleted is deleted with it.
        pods = [space for space in self._pods.values() if space in self._namespaces]
        self.counts["most pods"] = max(self.counts["most pods"], len(pods))
        limit, now = self.limits.now().pool, self.history.now()
        if len(pods) <= limit:
            self._crowded = None
            return
        if self._crowded is None:
            self._crowded = now
        if now - self._crowded > AGREE_S:
            what = f"{len(pods)} pods where {limit} are allowed"
            self.accuse("no pool is above its limit", what, *pods)

    # --- at the end ------------------------------------------------------------------------------

    @property
    def nodes(self) -> dict[str, Record]:
        """Every node's record, drafts included."""
        return self._nodes

    @property
    def requests(self) -> dict[str, Record]:
        """Every request."""
        return self._requests

    @property
    def namespaces(self) -> dict[str, str]:
        """Every namespace of the deployment that is not being deleted, and its node."""
        return self._namespaces

    @property
    def pods(self) -> set[str]:
        """The namespaces of the pods that are not being deleted."""
        return set(self._pods.values())


def is_spare(record: Record) -> bool:
    """Whether a launcher submitted the request, for a spare node."""
    return bool(record.get("requestor") == "NodePool:min-ready")


def reasons(record: Record) -> list[str]:
    """Why a request failed, as the launchers wrote it."""
    return (record.get("nodepool_k8s") or {}).get("reasons") or []


def claimed(record: Record) -> dict[str, int]:
    """What the pool's ledger holds for the node, in thousandths; a draft holds nothing."""
    return _own(record).get("claimed") or {}


def limited(record: Record) -> bool:
    """Whether it counts for the tenant that has a limit."""
    return bool(claimed(record)) and _own(record).get("tenant") == LIMITED_TENANT


def _own(record: Record) -> Record:
    return (record.get("driver_data") or {}).get("nodepool_k8s") or {}


def tokens(value: object) -> set[str]:
    """Every token in a record."""
    if isinstance(value, list):
        return {token for each in value for token in tokens(each)}
    if not isinstance(value, dict):
        return set()
    found = value.get("token")
    own = {found} if isinstance(found, str) and len(found) >= SECRET_LENGTH else set()
    return own | {token for each in value.values() for token in tokens(each)}
