"""A copy in memory of the part of ZooKeeper that decisions are made from.

One persistent recursive watch per root keeps it current. It lags by one round trip, so every
transaction that is based on it checks versions. Records that this launcher holds locked
(``own``) are not read on events, but updated with what it writes: reading back its own
writes would be half of all reads.
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
from nodepool_k8s.znodes.nodes import has_driver_data, parse_node, without_secrets
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
"""Reads in flight while the tree is listed: enough to use the connection, not to flood it."""


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
    """A request's progress record was deleted."""


Listener = Callable[[Kind, str], None]
"""Called with the id of a request, node or component, else with the path."""

Spawn = Callable[[str, Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Usage:
    """Sums over the node records of one ledger: claimed through it, and not.

    ``leaving`` is the part of ``claimed`` that will soon be released.
    """

    __slots__ = ("claimed", "foreign", "leaving")

    def __init__(self) -> None:
        self.claimed = Resources()
        self.foreign = Resources()
        self.leaving = Resources()


class Mirror:
    """Requests, nodes, their locks, components and ledgers, as of the last event."""

    def __init__(self, client: ZooKeeperClient, spawn: Spawn) -> None:
        self._client = client
        self._spawn = spawn
        self.requests: dict[str, NodeRequest] = {}
        self.nodes: dict[str, Node] = {}
        self.components: dict[str, Component] = {}
        self.ledgers: dict[str, Ledger] = {}
        """By path, as the store last read or wrote them; an outdated one costs one more read."""
        self.node_locks: dict[str, set[str]] = {}
        self.request_locks: dict[str, set[str]] = {}
        self.empty_nodes: set[str] = set()
        """Ids of nodes whose znode is empty."""
        self._allocated: dict[str, set[str]] = {}
        self._spare: dict[str, set[str]] = {}
        self._usage: dict[str, Usage] = {}
        self._held: dict[tuple[str, str], Resources] = {}
        """By the path of a pool's ledger and the tenant."""
        self._listeners: list[Listener] = []
        self._reading: dict[str, bool] = {}
        """Paths being read, and whether an event since then made the result outdated."""
        self._owned: set[str] = set()
        self._drafting = 0
        self._unread: set[str] = set()
        """Nodes that appeared while drafts were being created; most of them are those drafts."""
        self._reported: dict[str, bytes] = {}
        client.on_event(self._on_event)

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` after every change."""
        self._listeners.append(listener)

    def _tell(self, kind: Kind, name: str) -> None:
        for listener in self._listeners:
            listener(kind, name)

    # --- records that this launcher writes ------------------------------------------------

    def own(self, path: str) -> None:
        """Stop reading the record on events: this launcher holds its lock, and writes it."""
        self._owned.add(path)

    def disown(self, path: str) -> None:
        """Read the record on events again: others may write it."""
        self._owned.discard(path)

    @contextmanager
    def drafting(self) -> Iterator[list[str]]:
        """Create nodes inside of this context, and put their paths into the list.

        Their names are unknown until they exist; they are this launcher's own and not read.
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
        """Undo ``own`` and read the record, which may have changed meanwhile."""
        self._owned.discard(path)
        self._refresh(path, gone=False)

    def put_request(self, request: NodeRequest) -> None:
        """Store a request that this launcher has just written, unless it was deleted meanwhile."""
        if request.id in self.requests:
            self._set_request(request.id, request)

    def put_node(self, node: Node) -> None:
        """Store a node that this launcher has just written."""
        self._set_node(node.id, without_secrets(node))

    def put_component(self, path: str, component: Component) -> None:
        """Store a pool that this launcher has just registered."""
        self.components[path.rpartition("/")[2]] = component
        self._tell(Kind.COMPONENT, path.rpartition("/")[2])

    # --- queries -------------------------------------------------------------------------

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
        """What a tenant's nodes count in a pool, by its ledger's path; "" is for no tenant name.

        Spare nodes, ready or being launched, are held by no tenant.
        """
        return self._held.get((ledger, tenant), NOTHING)

    def unused(self, label: str) -> list[Node]:
        """Ready nodes with the label that are not allocated, the oldest first."""
        nodes = (self.nodes[node_id] for node_id in self._spare.get(label, ()))
        return sorted(filter(_is_unused, nodes), key=lambda node: (node.state_time, node.id))

    def spare(self, label: str) -> int:
        """How many ready nodes are spare, including those about to be unallocated."""
        return len(self._spare.get(label, ()))

    def allocated_to(self, request_id: str) -> frozenset[str]:
        """Ids of the nodes that are allocated to the request."""
        return frozenset(self._allocated.get(request_id, ()))

    def node_locked(self, node_id: str) -> bool:
        """Whether the node's lock is held or contended for."""
        return bool(self.node_locks.get(node_id))

    def request_locked(self, request_id: str) -> bool:
        """Whether the request's lock is held or contended for."""
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
                # The change happened while no watch was set.
                self._tell(kind, name)

        root = paths.NODES if is_node else paths.REQUEST_LOCKS
        names = set(await self._client.children(root)) | locks.keys()
        await asyncio.gather(*(read(name) for name in names))

    async def _read_lock(self, path: str) -> set[str]:
        """The children of a lock, read again if one came or went meanwhile."""
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
            # Not read here: most changes are this launcher's own, and a claim that finds its
            # version outdated reads it then. A recreated ledger starts at version 0 again.
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
        """Handle the event if it is about the child of a lock; whether it was."""
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
            # The read in flight may return data older than this event.
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
        """Log once that a record is unreadable, and continue without it."""
        self._drop(path)
        if not data and _kind_of(path) is Kind.NODE:
            # Left of a deleted node by a contender's lock; upkeep removes it.
            self.empty_nodes.add(path.rpartition("/")[2])
        elif self._reported.get(path) != data[:200]:
            self._reported[path] = data[:200]
            log.warning("Skipping unreadable record %s: %s", path, error)

    # --- records --------------------------------------------------------------------------------

    def _take(self, path: str, data: bytes, stat: Stat) -> None:
        kind, name = _kind_of(path), path.rpartition("/")[2]
        if kind is Kind.REQUEST:
            self._set_request(name, parse_request(name, data, stat.version))
        elif kind is Kind.NODE:
            node = parse_node(name, data, stat.version)
            # Without tokens and certificates: there may be ten thousand nodes.
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
        """Add the node to what its tenant holds in the pool, or subtract it."""
        if not _is_held(node):
            return
        whose = ledger, node.tenant_name or ""
        held = _shifted(self._held.pop(whose, NOTHING), _foreign(node), add)
        if held:
            self._held[whose] = held

    def _count(self, ledger: str, node: Node, add: bool, claimed: Resources | None) -> None:
        """Add the node to a ledger's sums, or subtract it; ``claimed`` is its part of that."""
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
"""States of nodes that will soon be released from the ledger."""


def _counts(node: Node) -> tuple[object, ...]:
    """The parts of a node that the sums depend on."""
    return (
        node.provider,
        node.pool,
        node.tenant_name,
        node.counted_for,
        node.claimed,
        node.resources,
        node.state in LEAVING,
        has_driver_data(node),
        _is_held(node),
    )


def _request_of(node: Node | None) -> str | None:
    return None if node is None else node.allocated_to


def _is_held(node: Node) -> bool:
    """Whether it is a tenant's, or is being launched for one."""
    return node.allocated_to is not None and node.requestor != MIN_READY


def _is_unused(node: Node) -> bool:
    return node.unused


def _spare_label(node: Node | None) -> str | None:
    if node is None or not node.type or node.state is not NodeState.READY:
        return None
    # A Nodepool launcher's spare node is still allocated to the request for spare nodes.
    return node.type[0] if node.unused or node.requestor == MIN_READY else None


def _move(index: dict[str, set[str]], node_id: str, before: str | None, after: str | None) -> None:
    """Move a node to another key of an index."""
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
    if has_driver_data(node):
        return Resources()  # A draft of ours counts once it is claimed.
    # Nodepool writes a node's resources once it is ready; until then, count one server.
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
