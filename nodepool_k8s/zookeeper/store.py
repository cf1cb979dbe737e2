"""Every change that this launcher makes in ZooKeeper, each in one transaction.

A transaction that changes a record which this launcher holds also checks or deletes its
child of the lock, so a launcher whose session is over changes nothing. The quota ledger of
a pool is part of each claim and each removal, at the version read.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from nodepool_k8s import __version__
from nodepool_k8s.errors import (
    Conflict,
    Held,
    MalformedRecord,
    NotHeld,
    Outdated,
    Vanished,
)
from nodepool_k8s.model import Component, Node, NodeRequest, NodeState
from nodepool_k8s.znodes import paths
from nodepool_k8s.znodes.components import encode_component
from nodepool_k8s.znodes.nodes import encode_node, parse_node
from nodepool_k8s.znodes.paths import (
    min_ready_path,
    node_lock_path,
    node_path,
    request_lock_path,
    request_path,
)
from nodepool_k8s.znodes.requests import encode_request, parse_request
from nodepool_k8s.zookeeper import locks
from nodepool_k8s.zookeeper.client import TransactionConflict, ZooKeeperClient
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper.ledger import LedgerChange, Ledgers, released, released_for_tenant
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.operations import Check, Create, Delete, Operation, SetData

log = logging.getLogger(__name__)

PARENTS = (
    paths.REQUESTS,
    paths.REQUEST_LOCKS,
    paths.NODES,
    paths.POOL_COMPONENTS,
    paths.LEDGERS,
    paths.TENANT_LEDGERS,
    paths.MIN_READY_OWNERS,
)


class NodeTaken(Conflict):
    """A ready node that was to be reused was taken, changed or deleted meanwhile."""

    def __init__(self, node_id: str) -> None:
        super().__init__(f"node {node_id} is no longer available")
        self.node_id = node_id


@dataclass(frozen=True, slots=True)
class Claim:
    """A request that this launcher fulfils, with the nodes that were claimed for it."""

    request: NodeRequest
    lock: str
    nodes: tuple[HeldNode, ...]


class Store:
    """The transactions. One store per session; it updates the mirror with what it writes."""

    def __init__(self, client: ZooKeeperClient, mirror: Mirror) -> None:
        self._client = client
        self._session = client.session
        self._mirror = mirror
        self._hostname = socket.getfqdn()
        self.ledgers = Ledgers(client, mirror)

    @property
    def session_over(self) -> bool:
        """Whether the session of this store has ended, and with it the locks that it held."""
        return self._session.over

    # --- start-up -----------------------------------------------------------------------

    async def prepare(self) -> str:
        """Create missing parents; returns the deployment's UUID, which is created once."""
        for path in PARENTS:
            await self._client.ensure_path(path)
        with suppress(Conflict):
            await self._client.transaction([Create(paths.DEPLOYMENT, str(uuid.uuid4()).encode())])
        data, _ = await self._client.get(paths.DEPLOYMENT)
        return data.decode()

    async def register(self, component: Component) -> str:
        """Register a pool; returns the path of its ephemeral record."""
        path = f"{paths.POOL_COMPONENTS}/{self._hostname}-{random.getrandbits(64):016x}"
        await self._client.transaction([Create(path, self._encode(component), ephemeral=True)])
        # In the mirror at once, or a request could fail because no pool seems to offer its label.
        self._mirror.put_component(path, component)
        return path

    def _encode(self, component: Component) -> bytes:
        return encode_component(
            component, hostname=self._hostname, name=component.pool, version=__version__
        )

    async def update_component(self, path: str, component: Component) -> None:
        """Rewrite a pool's record, for instance when it pauses."""
        data = self._encode(component)
        with suppress(Conflict):
            _, stat = await self._client.get(path)
            await self._client.transaction([SetData(path, data, stat.version)])

    async def request_locks(self) -> list[str]:
        """Ids of the requests that have a lock's znode, even if the request does not exist."""
        return await self._client.children(paths.REQUEST_LOCKS)

    async def deregister(self, path: str) -> None:
        """Remove a pool's record: other pools no longer yield to it or wait for it."""
        with suppress(Conflict):
            await self._client.transaction([Delete(path)])

    # --- spare nodes -----------------------------------------------------------------------

    async def take_min_ready(self, label: str) -> bool:
        """Become the launcher that requests a label's spare nodes; False if another one is."""
        try:
            await self._client.transaction([Create(min_ready_path(label), ephemeral=True)])
        except Conflict:
            return False
        return True

    async def give_up_min_ready(self, label: str) -> None:
        """Let another launcher request a label's spare nodes."""
        await self._delete_quietly(min_ready_path(label))

    async def submit_spare(self, request: NodeRequest, priority: str) -> str:
        """Create a request that lives as long as this session; its id. Raises ConnectionLost."""
        path = await self._client.create_sequence(
            f"{paths.REQUESTS}/{priority}-", encode_request(request), ephemeral=True
        )
        return path.rpartition("/")[2]

    async def delete_request(self, request_id: str) -> None:
        """Delete a request of ours; a request that is already gone is no error."""
        await self._delete_quietly(request_path(request_id))

    # --- claiming -----------------------------------------------------------------------

    async def draft_nodes(self, drafts: Sequence[Node]) -> list[Node]:
        """Create the znodes of new nodes, so that they have ids; concurrently.

        Their data is never empty, because Nodepool deletes empty node znodes.
        """
        with self._mirror.drafting() as created:
            created += await asyncio.gather(
                *(
                    self._client.create_sequence(f"{paths.NODES}/", encode_node(draft))
                    for draft in drafts
                )
            )
        return [
            dataclasses.replace(draft, id=path.rpartition("/")[2], version=0)
            for draft, path in zip(drafts, created, strict=True)
        ]

    async def drop_drafts(self, drafts: Sequence[Node]) -> None:
        """Delete drafted znodes that are not used."""
        for draft in drafts:
            await self._delete_quietly(node_path(draft.id), version=0)

    async def claim(
        self, request: NodeRequest, nodes: Sequence[Node], entries: Sequence[LedgerChange]
    ) -> Claim:
        """Lock the request, reserve quota and write the nodes, in one transaction.

        ``request`` and ``nodes`` are as they are to be written, with the versions that they
        were read at; the nodes are drafts to be filled in, and ready ones to be reused.
        Raises AtQuota, NodeTaken, Held (the request is locked), Outdated or
        Vanished (the request changed or went), SessionLost.
        """
        lock_set = locks.LockSet()
        request_lock = lock_set.add(request_lock_path(request.id), expect_missing=True)
        held = [
            HeldNode(
                node,
                lock_set.add(
                    node_lock_path(node.id), expect_missing=node.state is not NodeState.READY
                ),
            )
            for node in nodes
        ]
        writes = [
            SetData(request_path(request.id), encode_request(request), request.version),
            *(_write(node) for node in nodes),
        ]
        for write in writes:
            self._mirror.own(write.path)
        try:
            await self.ledgers.transact(entries, writes, lock_set)
        except BaseException as error:
            for write in writes:
                self._mirror.reread(write.path)
            if isinstance(error, TransactionConflict):
                _raise_for_claim(error, nodes)
            raise
        claim = Claim(
            dataclasses.replace(request, version=request.version + 1),
            request_lock,
            tuple(entry.evolve(version=entry.node.version + 1) for entry in held),
        )
        self._mirror.put_request(claim.request)
        for entry in claim.nodes:
            self._mirror.put_node(entry.node)
        return claim

    # --- a claimed request -------------------------------------------------------------------

    async def write_node(self, held: HeldNode) -> HeldNode:
        """Write the node as given. Raises NotHeld, Outdated, SessionLost."""
        try:
            await self._as_holder(held.lock, [Check(held.lock), _write(held.node)])
        except TransactionConflict as conflict:
            raise conflict.cause from conflict
        return self._written(held)

    async def read_held(self, held: HeldNode) -> HeldNode:
        """Read the node from ZooKeeper. Raises NotHeld if it does not exist."""
        try:
            data, stat = await self._client.get(node_path(held.node.id))
        except Vanished as error:
            raise NotHeld(f"node {held.node.id} was removed by another client") from error
        return dataclasses.replace(held, node=parse_node(held.node.id, data, stat.version))

    def _written(self, held: HeldNode) -> HeldNode:
        written = held.evolve(version=held.node.version + 1)
        self._mirror.put_node(written.node)
        return written

    async def hand_over(
        self, claim: Claim, request: NodeRequest, nodes: Sequence[HeldNode], unwritten: int
    ) -> None:
        """Write the request as given and release all of its locks, in one transaction.

        It also writes the last ``unwritten`` nodes; the others must be in ZooKeeper as
        given. Raises Vanished (the request is gone), Outdated (another client changed a
        node), NotHeld, SessionLost.
        """
        written, rest = nodes[: len(nodes) - unwritten], nodes[len(nodes) - unwritten :]
        operations: list[Operation] = [
            *(Check(node_path(entry.node.id), entry.node.version) for entry in written),
            *(_write(entry.node) for entry in rest),
            *(Delete(entry.lock) for entry in nodes),
        ]
        await self._end_claim(claim, request, operations)
        for entry in rest:
            self._written(entry)
        for entry in nodes:
            self._mirror.disown(node_path(entry.node.id))

    async def give_back(self, claim: Claim, request: NodeRequest) -> None:
        """Write the request as given (requested again, or failed) and release its lock.

        Raises Vanished (the request is gone), NotHeld, SessionLost.
        """
        await self._end_claim(claim, request, [])

    async def _end_claim(
        self, claim: Claim, request: NodeRequest, operations: list[Operation]
    ) -> None:
        path = request_path(request.id)
        version = claim.request.version
        while True:
            write = SetData(path, encode_request(request), version)
            try:
                await self._as_holder(claim.lock, [write, *operations, Delete(claim.lock)])
            except TransactionConflict as conflict:
                if conflict.operation.path != path:
                    raise Outdated(str(conflict)) from conflict
                if isinstance(conflict.cause, Vanished):
                    raise conflict.cause from conflict
                # Written by a client without the lock, which we hold: overwrite it.
                version = (await self._client.get(path))[1].version
            else:
                break
        self._mirror.disown(path)
        self._mirror.put_request(dataclasses.replace(request, version=version + 1))

    async def abandon_request(self, claim: Claim) -> None:
        """Release the lock of a request that is gone."""
        self._mirror.disown(request_path(claim.request.id))
        await self._delete_quietly(claim.lock)
        await self.drop_request_lock(claim.request.id)

    async def _as_holder(self, lock: str, operations: Sequence[Operation]) -> None:
        try:
            await self._client.transaction(operations)
        except TransactionConflict as conflict:
            if conflict.operation.path == lock:
                raise NotHeld(f"{lock} is no longer held by this launcher") from conflict
            raise

    # --- requests that are not claimed -----------------------------------------------------

    async def rewrite_request(self, request: NodeRequest) -> NodeRequest:
        """Write a request that is not locked: a refusal, or a reset.

        The same transaction requires that its lock is free. Raises Held, Outdated,
        Vanished, SessionLost.
        """
        lock_set = locks.LockSet()
        lock_set.require_free(request_lock_path(request.id), expect_missing=True)
        write = SetData(request_path(request.id), encode_request(request), request.version)
        await self._transact([], [write], lock_set)
        written = dataclasses.replace(request, version=request.version + 1)
        self._mirror.put_request(written)
        return written

    async def _transact(
        self,
        entries: Sequence[LedgerChange],
        operations: Sequence[Operation],
        lock_set: locks.LockSet,
    ) -> None:
        """Apply all of it. Raises the conflict's cause: Held, Outdated, Vanished."""
        try:
            await self.ledgers.transact(entries, operations, lock_set)
        except TransactionConflict as conflict:
            raise conflict.cause from conflict

    async def drop_request_lock(self, request_id: str) -> None:
        """Delete the lock of a request that is gone, unless it is held or contended for."""
        await self._delete_quietly(request_lock_path(request_id))

    # --- removing nodes ---------------------------------------------------------------------------

    async def take_node(
        self, node_id: str, change: Callable[[Node], Node | None]
    ) -> HeldNode | None:
        """Lock a free node and write it as changed by ``change``, in one transaction.

        ``change`` gets the current record, and returns None to leave it alone; then this
        returns None, too. Raises Held, Vanished, Outdated, SessionLost.
        """
        path = node_path(node_id)
        node = change(await self._get_node(node_id))
        if node is None:
            return None
        lock_set = locks.LockSet()
        held = HeldNode(node, lock_set.add(node_lock_path(node_id), expect_missing=False))
        self._mirror.own(path)
        try:
            await self._transact([], [_write(node)], lock_set)
        except BaseException:
            self._mirror.reread(path)
            raise
        return self._written(held)

    async def read_nodes(self, node_ids: Sequence[str]) -> list[Node]:
        """Read the nodes with every key of their records, concurrently.

        Raises NodeTaken if one is no longer available, SessionLost.
        """
        return list(await asyncio.gather(*(self._get_unused(node_id) for node_id in node_ids)))

    async def _get_unused(self, node_id: str) -> Node:
        try:
            node = await self._get_node(node_id)
        except (Vanished, MalformedRecord) as error:
            raise NodeTaken(node_id) from error
        if not node.unused:
            raise NodeTaken(node_id)
        return node

    async def refresh_node(self, node_id: str) -> bool:
        """Update a node in the mirror from ZooKeeper; False if it does not exist."""
        await self._client.sync(paths.NODES)
        try:
            self._mirror.put_node(await self._get_node(node_id))
        except (Vanished, MalformedRecord):
            return False
        return True

    async def catch_up(self, ledger: str, node_ids: Sequence[str]) -> None:
        """Update these nodes, and then the ledger, in the mirror from ZooKeeper.

        The mirror has seen all removals up to then before the ledger is read.
        """
        await asyncio.gather(*(self.refresh_node(node_id) for node_id in node_ids))
        await self.ledgers.read(ledger)

    async def _get_node(self, node_id: str) -> Node:
        data, stat = await self._client.get(node_path(node_id))
        return parse_node(node_id, data, stat.version)

    # --- releasing nodes --------------------------------------------------------------------

    async def free_held(self, held: HeldNode) -> None:
        """Unallocate a ready node that this launcher holds, and release its lock.

        Raises Outdated (another client changed it), NotHeld, SessionLost.
        """
        node = _freed(held.node)
        operations: list[Operation] = [_write(node), Delete(held.lock)]
        try:
            await self.ledgers.transact(released_for_tenant(held.node), operations)
        except TransactionConflict as conflict:
            if conflict.operation.path == held.lock:
                raise NotHeld(f"{held.lock} is no longer held by this launcher") from conflict
            raise conflict.cause from conflict
        self._written(HeldNode(node, held.lock))
        self._mirror.disown(node_path(node.id))

    async def free_node(
        self, node_id: str, request: NodeRequest | None, is_due: Callable[[Node], bool]
    ) -> bool:
        """Unallocate a ready node that is not locked, if it is due; whether it was.

        ``request`` is the one that it is allocated to and must be unchanged; None: gone.
        Raises Held, Vanished, Outdated, SessionLost.
        """
        node = await self._get_node(node_id)
        if not is_due(node):
            return False
        lock_set = locks.LockSet()
        lock_set.require_free(node_lock_path(node_id), expect_missing=False)
        free = _freed(node)
        operations: list[Operation] = [_write(free)]
        if request is not None:
            operations.append(Check(request_path(request.id), request.version))
        await self._transact(released_for_tenant(node), operations, lock_set)
        self._mirror.put_node(dataclasses.replace(free, version=free.version + 1))
        return True

    async def remove_node(self, held: HeldNode) -> None:
        """Delete the node's record and release its part of the ledger, in one transaction.

        Raises Held if another client contends for the node's lock: the node is then marked
        deleted and unlocked, so that the contender sees it and leaves, and the removal must
        be retried. Raises NotHeld, SessionLost.
        """
        path, lock = node_path(held.node.id), node_lock_path(held.node.id)
        removal: list[Operation] = [
            Check(held.lock),
            Delete(held.lock),
            Delete(lock),
            Delete(path, held.node.version),
        ]
        try:
            await self._remove(held.node, removal)
        except Vanished as error:
            raise NotHeld(f"node {held.node.id} was removed by another client") from error
        except (Held, Outdated) as error:
            await self._mark_deleted(held)
            raise Held(f"another client contends for node {held.node.id}") from error

    async def _remove(self, node: Node, removal: list[Operation]) -> None:
        try:
            await self.ledgers.transact(released(node), removal)
        except TransactionConflict as conflict:
            raise conflict.cause from conflict

    async def _mark_deleted(self, held: HeldNode) -> None:
        path = node_path(held.node.id)
        _, stat = await self._client.get(path)
        deleted = held.move_to(NodeState.DELETED, time.time(), version=stat.version)
        write = SetData(path, encode_node(deleted.node), stat.version)
        await self._as_holder(held.lock, [Delete(held.lock), write])
        self._written(deleted)
        self._mirror.disown(path)

    async def drop_empty_node(self, node_id: str) -> None:
        """Delete an empty node znode that was left behind by a contender's lock."""
        await self._delete_quietly(node_lock_path(node_id))
        with suppress(Vanished):
            data, stat = await self._client.get(node_path(node_id))
            if not data:
                await self._delete_quietly(node_path(node_id), version=stat.version)

    async def _delete_quietly(self, path: str, version: int = -1) -> None:
        """Delete a znode, unless it is gone, changed or has children."""
        with suppress(Conflict):
            await self._client.transaction([Delete(path, version)])

    # --- upkeep -------------------------------------------------------------------------

    async def request_exists(self, request_id: str) -> bool:
        """Whether a request exists, by the leader's state, not by the mirror."""
        await self._client.sync(paths.REQUESTS)
        return await self._client.exists(request_path(request_id)) is not None

    async def read_request(self, request_id: str) -> NodeRequest | None:
        """Read a request in the leader's state, not the mirror; None if it does not exist.

        Raises MalformedRecord, SessionLost.
        """
        await self._client.sync(paths.REQUESTS)
        try:
            data, stat = await self._client.get(request_path(request_id))
        except Vanished:
            return None
        return parse_request(request_id, data, stat.version)

    async def read_node(self, node_id: str) -> Node | None:
        """Read a node in the leader's state, not the mirror; None if it does not exist.

        Raises MalformedRecord, SessionLost.
        """
        if not node_id:
            return None
        await self._client.sync(paths.NODES)
        try:
            data, stat = await self._client.get(node_path(node_id))
        except Vanished:
            return None
        return parse_node(node_id, data, stat.version)


def _write(node: Node) -> SetData:
    return SetData(node_path(node.id), encode_node(node), node.version)


def _freed(node: Node) -> Node:
    return dataclasses.replace(
        node, allocated_to=None, tenant_name=None, requestor=None, counted_for=None
    )


def _raise_for_claim(conflict: TransactionConflict, nodes: Sequence[Node]) -> NoReturn:
    """Raise NodeTaken if a ready node was the cause, else the conflict's cause."""
    for node in nodes:
        if conflict.operation.path in (node_path(node.id), node_lock_path(node.id)):
            raise NodeTaken(node.id) from conflict
    raise conflict.cause from conflict
