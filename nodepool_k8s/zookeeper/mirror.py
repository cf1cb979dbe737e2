"""A copy in memory of the part of ZooKeeper that decisions are made from.

Kept true by one persistent recursive watch a root; it lags by one round trip, so
whoever acts on it checks versions in the transaction. Requests and nodes that this
launcher holds locked are its own to keep current (``own``): reading back what it wrote
itself would be half of all reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any

from nodepool_k8s.errors import MalformedRecord, SessionLost, Vanished
from nodepool_k8s.model import (
    MIN_READY,
    Component,
    Ledger,
    Node,
    NodeRequest,
    NodeState,
    Resources,
)
from nodepool_k8s.znodes import paths
from nodepool_k8s.znodes.components import parse_component
from nodepool_k8s.znodes.nodes import driver_data_of, parse_node, without_secrets
from nodepool_k8s.znodes.paths import (
    ledger_path,
    node_lock_path,
    request_lock_path,
    tenant_ledger_path,
)
from nodepool_k8s.znodes.requests import parse_request
from nodepool_k8s.zookeeper.client import Stat, ZooKeeperClient

log = logging.getLogger(__name__)

ROOTS = (paths.NODEPOOL, paths.OWN)

NOTHING = Resources()

READS_AT_ONCE = 200
"""Reads in flight while the tree is listed: enough to fill the pipe, not to flood it."""


class Kind(Enum):
    """What a change is about."""

    REQUEST = auto()
    REQUEST_LOCK = auto()
    NODE = auto()
    NODE_LOCK = auto()
    COMPONENT = auto()
    LEDGER = auto()
    MIN_READY = auto()
    PROGRESS = auto()
    """A request's record of progress went."""


Listener = Callable[[Kind, str], None]
"""Called with a request's, node's or component's id, or another's path."""

Spawn = Callable[[str, Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Usage:
    """Sums over the node records of one ledger: claimed through it, and not.

    ``leaving`` is how much of ``claimed`` is on its way out.
    """

    __slots__ = ("claimed", "foreign", "leaving")

    def __init__(self) -> None:
        self.claimed = Resources()
        self.foreign = Resources()
        self.leaving = Resources()


class Mirror:
    """Requests, nodes, their locks, components and ledgers, as last heard of."""

    def __init__(self, client: ZooKeeperClient, spawn: Spawn) -> None:
        self._client = client
        self._spawn = spawn
        self.requests: dict[str, NodeRequest] = {}
        self.nodes: dict[str, Node] = {}
        self.components: dict[str, Component] = {}
        self.ledgers: dict[str, Ledger] = {}
        """By path, as the store last read or wrote them; outdated ones cost it one more read."""
        self.node_locks: dict[str, set[str]] = {}
        self.request_locks: dict[str, set[str]] = {}
        self.empty_nodes: set[str] = set()
        """Ids of znodes among the nodes that hold no data."""
        self._allocated: dict[str, set[str]] = {}
        self._spare: dict[str, set[str]] = {}
        self._usage: dict[str, Usage] = {}
        self._held: dict[tuple[str, str], Resources] = {}
        """By a pool's ledger and a tenant."""
        self._listeners: list[Listener] = []
        self._reading: dict[str, bool] = {}
        """What is being read, and whether an event says that the answer may be older."""
        self._owned: set[str] = set()
        self._drafting = 0
        self._unread: set[str] = set()
        """Nodes that came while drafts were being made: most are those drafts."""
        self._reported: dict[str, bytes] = {}
        client.on_event(self._on_event)

    def listen(self, listener: Listener) -> None:
        """Hear of every change, after it was taken in."""
        self._listeners.append(listener)

    def _tell(self, kind: Kind, name: str) -> None:
        for listener in self._listeners:
            listener(kind, name)

    # --- what is ours to write ------------------------------------------------------------

    def own(self, path: str) -> None:
        """From now on this launcher says what the record at ``path`` is (it holds its lock)."""
        self._owned.add(path)

    def disown(self, path: str) -> None:
        """The record at ``path`` is anybody's to write again."""
        self._owned.discard(path)

    @contextmanager
    def drafting(self) -> Iterator[list[str]]:
        """Nodes are being created whose names are not known yet; put their paths into the list.

        They need not be read, as they are this launcher's own.
        """
        created: list[str] = []
        self._drafting += 1
        try:
            yield created
        finally:
            self._drafting -= 1
            self._owned.update(created)
            self._unread.difference_update(created)
            if not self._drafting:
                others, self._unread = self._unread, set()
                for path in others:
                    self._refresh(path, gone=False)

    def reread(self, path: str) -> None:
        """Give up ``own``, and catch up with what may have happened meanwhile."""
        self._owned.discard(path)
        self._refresh(path, gone=False)

    def put_request(self, request: NodeRequest) -> None:
        """Take in a request that this launcher has just written, unless it is gone by now."""
        if request.id in self.requests:
            self._set_request(request.id, request)

    def put_node(self, node: Node) -> None:
        """Take in a node that this launcher has just written."""
        self._set_node(node.id, without_secrets(node))

    def put_component(self, path: str, component: Component) -> None:
        """Take in a pool that this launcher has just registered."""
        self.components[path.rpartition("/")[2]] = component
        self._tell(Kind.COMPONENT, path.rpartition("/")[2])

    # --- questions -------------------------------------------------------------------------

    def usage(self, ledger: str) -> Usage:
        """Sums over the node records of a pool, or of a tenant, by its ledger's path."""
        return self._usage.setdefault(ledger, Usage())

    def used(self, ledger: str) -> Resources:
        """What counts against the ledger's limits.

        That is what it holds, which records lag behind, and nodes that were never entered.
        """
        usage, known = self.usage(ledger), self.ledgers.get(ledger)
        return (known.claimed if known else usage.claimed) + usage.foreign

    def held(self, ledger: str, tenant: str) -> Resources:
        """What a tenant's nodes count in a pool, by its ledger; of those without a name as "".

        Ready nodes that are nobody's, and those that are being made for nobody, are held by
        no tenant.
        """
        return self._held.get((ledger, tenant), NOTHING)

    def unused(self, label: str) -> list[Node]:
        """Ready nodes with the label that are nobody's, the oldest first."""
        nodes = (self.nodes[node_id] for node_id in self._spare.get(label, ()))
        return sorted(filter(_is_unused, nodes), key=lambda node: (node.state_time, node.id))

    def spare(self, label: str) -> int:
        """How many ready nodes there are, or will be at once, for whoever comes."""
        return len(self._spare.get(label, ()))

    def allocated_to(self, request_id: str) -> frozenset[str]:
        """Ids of the nodes that are allocated to the request."""
        return frozenset(self._allocated.get(request_id, ()))

    def node_locked(self, node_id: str) -> bool:
        """Whether anybody holds or contends for the node's lock."""
        return bool(self.node_locks.get(node_id))

    def request_locked(self, request_id: str) -> bool:
        """Whether anybody holds or contends for the request's lock."""
        return bool(self.request_locks.get(request_id))

    # --- listing ---------------------------------------------------------------------------

    async def load(self) -> None:
        """Set the watches and list everything; again after each reconnect.

        Raises SessionLost.
        """
        for root in ROOTS:
            await self._client.watch_recursively(root)
        gate = asyncio.Semaphore(READS_AT_ONCE)
        await self._load_branch(paths.REQUESTS, self.requests, gate)
        await self._load_branch(paths.NODES, self.nodes, gate)
        await self._load_branch(paths.POOL_COMPONENTS, self.components, gate)
        await self._load_locks(Kind.REQUEST_LOCK, gate)
        await self._load_locks(Kind.NODE_LOCK, gate)
        outdated = list(self.ledgers)
        self.ledgers.clear()
        for path in outdated:
            self._tell(Kind.LEDGER, path)

    async def _load_branch(self, root: str, known: dict[str, Any], gate: asyncio.Semaphore) -> None:
        names = set(await self._client.children(root))
        for path in self._known_below(root, known):
            if path.rpartition("/")[2] not in names:
                self._removed(path)

        async def read(name: str) -> None:
            path = f"{root}/{name}"
            async with gate:
                if path not in self._reading:
                    await self._read_until_current(path)

        await asyncio.gather(*(read(name) for name in names))

    def _known_below(self, root: str, known: Iterable[str]) -> set[str]:
        """Paths of the records that were read, and of those that could not be."""
        names = {*known, *self.empty_nodes} if root == paths.NODES else {*known}
        unread = {path for path in self._reported if path.rpartition("/")[0] == root}
        return {f"{root}/{name}" for name in names} | unread

    async def _load_locks(self, kind: Kind, gate: asyncio.Semaphore) -> None:
        is_node = kind is Kind.NODE_LOCK
        locks = self.node_locks if is_node else self.request_locks

        async def read(name: str) -> None:
            path = node_lock_path(name) if is_node else request_lock_path(name)
            before = locks.get(name)
            async with gate:
                children = await self._read_lock(path)
            self._set_lock_children(locks, name, children)
            if locks.get(name) != before:
                # Its coming or going was not heard: nobody was listening.
                self._tell(kind, name)

        root = paths.NODES if is_node else paths.REQUEST_LOCKS
        names = set(await self._client.children(root)) | locks.keys()
        await asyncio.gather(*(read(name) for name in names))

    async def _read_lock(self, path: str) -> set[str]:
        """The children of a lock, none of which came or went since the answer."""
        try:
            while True:
                self._reading[path] = False
                try:
                    children = await self._client.children(path)
                except Vanished:
                    children = []
                if not self._reading[path]:
                    return {child for child in children if _is_lock(child)}
        finally:
            del self._reading[path]

    # --- events ------------------------------------------------------------------------------

    def _on_event(self, event: str, path: str) -> None:
        if self._on_lock_event(event, path):
            return
        kind = _kind_of(path)
        if kind is Kind.LEDGER:
            # Not read here: most changes are this launcher's own, and a claim that finds
            # its version outdated reads it then. One made anew counts its versions anew.
            if event != "CHANGED":
                self.ledgers.pop(path, None)
            self._tell(kind, path)
            return
        if kind is Kind.MIN_READY:
            self._tell(kind, path)
            return
        if kind is Kind.PROGRESS and event == "DELETED":
            self._tell(kind, path.rpartition("/")[2])
        if kind in (None, Kind.PROGRESS):
            return
        if event == "DELETED":
            self._removed(path)
        elif path in self._owned:
            return
        elif self._drafting and kind is Kind.NODE and event == "CREATED":
            self._unread.add(path)
            return
        self._refresh(path, gone=event == "DELETED")

    def _on_lock_event(self, event: str, path: str) -> bool:
        """Take in the coming or going of a lock's child; True when it was one."""
        parts = path.split("/")
        if not _is_lock(parts[-1]):
            return False
        if path.startswith(paths.NODES + "/") and len(parts) == 6:
            kind, locks, name = Kind.NODE_LOCK, self.node_locks, parts[3]
        elif path.startswith(paths.REQUEST_LOCKS + "/") and len(parts) == 5:
            kind, locks, name = Kind.REQUEST_LOCK, self.request_locks, parts[3]
        else:
            return True
        parent = path.rpartition("/")[0]
        if parent in self._reading:
            self._reading[parent] = True
        children = locks.get(name, set())
        if event == "CREATED":
            self._set_lock_children(locks, name, children | {parts[-1]})
        elif event == "DELETED":
            self._set_lock_children(locks, name, children - {parts[-1]})
        self._tell(kind, name)
        return True

    @staticmethod
    def _set_lock_children(locks: dict[str, set[str]], name: str, children: set[str]) -> None:
        if children:
            locks[name] = children
        else:
            locks.pop(name, None)

    def _refresh(self, path: str, *, gone: bool) -> None:
        if path in self._reading:
            # What is being read may be older than this event.
            self._reading[path] = True
        elif not gone:
            self._reading[path] = False
            self._spawn(f"read {path}", self._read_until_current(path))

    async def _read_until_current(self, path: str) -> None:
        try:
            while True:
                self._reading[path] = False
                await self._read(path)
                if not self._reading[path]:
                    return
        except SessionLost:
            return
        finally:
            del self._reading[path]

    async def _read(self, path: str) -> None:
        try:
            data, stat = await self._client.get(path)
        except Vanished:
            self._removed(path)
            return
        if path in self._owned:
            return
        try:
            self._take(path, data, stat)
            self._reported.pop(path, None)
        except MalformedRecord as error:
            self._report(path, data, error)

    def _report(self, path: str, data: bytes, error: MalformedRecord) -> None:
        """Say once that a record cannot be read, and go on without it."""
        self._drop(path)
        if not data and _kind_of(path) is Kind.NODE:
            # What a contender's lock leaves of a removed node; upkeep's to remove.
            self.empty_nodes.add(path.rpartition("/")[2])
        elif self._reported.get(path) != data[:200]:
            self._reported[path] = data[:200]
            log.warning("Passed over %s: %s", path, error)

    # --- records --------------------------------------------------------------------------------

    def _take(self, path: str, data: bytes, stat: Stat) -> None:
        kind, name = _kind_of(path), path.rpartition("/")[2]
        if kind is Kind.REQUEST:
            self._set_request(name, parse_request(name, data, stat.version))
        elif kind is Kind.NODE:
            node = parse_node(name, data, stat.version)
            # Tokens and certificates of ten thousand nodes are nothing to keep in memory.
            self._set_node(name, without_secrets(node))
        elif kind is Kind.COMPONENT:
            self.components[name] = parse_component(name, data)
            self._tell(Kind.COMPONENT, name)

    def _removed(self, path: str) -> None:
        self._reported.pop(path, None)
        self._drop(path)

    def _drop(self, path: str) -> None:
        kind, name = _kind_of(path), path.rpartition("/")[2]
        if kind is Kind.REQUEST and name in self.requests:
            self._set_request(name, None)
        elif kind is Kind.NODE and name in self.nodes:
            self._set_node(name, None)
        elif kind is Kind.COMPONENT and name in self.components:
            del self.components[name]
            self._tell(Kind.COMPONENT, name)
        if kind is Kind.NODE:
            self.empty_nodes.discard(name)
        self._owned.discard(path)

    def _set_request(self, request_id: str, request: NodeRequest | None) -> None:
        if request is None:
            self.requests.pop(request_id, None)
        else:
            self.requests[request_id] = request
        self._tell(Kind.REQUEST, request_id)

    def _set_node(self, node_id: str, node: Node | None) -> None:
        old = self.nodes.pop(node_id, None)
        if node is not None:
            self.nodes[node_id] = node
            self.empty_nodes.discard(node_id)
        self._recount(old, node)
        _move(self._allocated, node_id, _request_of(old), _request_of(node))
        _move(self._spare, node_id, _spare_label(old), _spare_label(node))
        self._tell(Kind.NODE, node_id)

    def _recount(self, old: Node | None, new: Node | None) -> None:
        if old is not None and new is not None and _counts(old) == _counts(new):
            return
        for node, add in ((old, False), (new, True)):
            if node is None:
                continue
            if node.provider is not None and node.pool is not None:
                ledger = ledger_path(node.provider, node.pool)
                self._count(ledger, node, add, node.claimed)
                self._hold(ledger, node, add)
            if node.counted_for is not None:
                self._count(tenant_ledger_path(node.counted_for), node, add, node.claimed)
            elif node.tenant_name is not None:
                self._count(tenant_ledger_path(node.tenant_name), node, add, None)

    def _hold(self, ledger: str, node: Node, add: bool) -> None:
        """Add what the node counts to what its tenant holds in the pool, or take it off."""
        if not _is_held(node):
            return
        whose = ledger, node.tenant_name or ""
        held = _shifted(self._held.pop(whose, NOTHING), _foreign(node), add)
        if held:
            self._held[whose] = held

    def _count(self, ledger: str, node: Node, add: bool, claimed: Resources | None) -> None:
        """Add the node to one ledger's sums, or take it off; ``claimed`` is what that has of it."""
        usage = self.usage(ledger)
        if claimed is None:
            usage.foreign = _shifted(usage.foreign, _foreign(node), add)
            return
        usage.claimed = _shifted(usage.claimed, claimed, add)
        if node.state in LEAVING:
            usage.leaving = _shifted(usage.leaving, claimed, add)


LEAVING = frozenset(
    {NodeState.USED, NodeState.FAILED, NodeState.DELETING, NodeState.DELETED, NodeState.ABORTED}
)
"""States of nodes that soon count no more."""


def _counts(node: Node) -> tuple[object, ...]:
    """All of a node that its sums depend on."""
    return (
        node.provider,
        node.pool,
        node.tenant_name,
        node.counted_for,
        node.claimed,
        node.resources,
        node.state in LEAVING,
        bool(driver_data_of(node)),
        _is_held(node),
    )


def _request_of(node: Node | None) -> str | None:
    return None if node is None else node.allocated_to


def _is_held(node: Node) -> bool:
    """Whether it is some tenant's, or is being made for one."""
    return node.allocated_to is not None and node.requestor != MIN_READY


def _is_unused(node: Node) -> bool:
    return node.unused


def _spare_label(node: Node | None) -> str | None:
    if node is None or not node.type or node.state is not NodeState.READY:
        return None
    # One that a Nodepool launcher made is still allocated to the request for spare nodes.
    return node.type[0] if node.unused or node.requestor == MIN_READY else None


def _move(index: dict[str, set[str]], node_id: str, before: str | None, after: str | None) -> None:
    """File a node under another key."""
    if before == after:
        return
    if before:
        nodes = index[before]
        nodes.discard(node_id)
        if not nodes:
            del index[before]
    if after:
        index.setdefault(after, set()).add(node_id)


def _shifted(total: Resources, amount: Resources, add: bool) -> Resources:
    return total + amount if add else total - amount


def _foreign(node: Node) -> Resources:
    if node.claimed is not None:
        return node.claimed
    if driver_data_of(node):
        return Resources()  # A draft of ours counts when it is claimed.
    # Nodepool writes a node's resources only when it is ready; until then it is a server at least.
    return node.resources if node.resources is not None else Resources.of(instances=1)


def _is_lock(name: str) -> bool:
    return paths.LOCK_INFIX in name


def _kind_of(path: str) -> Kind | None:
    root, _, name = path.rpartition("/")
    if not name or _is_lock(name):
        return None
    if root.startswith(paths.LEDGERS + "/") or root == paths.TENANT_LEDGERS:
        return Kind.LEDGER
    return {
        paths.MIN_READY_OWNERS: Kind.MIN_READY,
        paths.PROGRESS: Kind.PROGRESS,
        paths.REQUESTS: Kind.REQUEST,
        paths.NODES: Kind.NODE,
        paths.POOL_COMPONENTS: Kind.COMPONENT,
    }.get(root)
