"""Every change this launcher makes in ZooKeeper, each one transaction.

A transaction that touches a record which this launcher holds checks or deletes its own
lock's child in it, so that a launcher whose session is over changes nothing. The
quota ledger of a pool is part of each claim and of each removal, at the version read.
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
    """A ready node that was to be reused is somebody else's, changed or gone by now."""

    def __init__(self, node_id: str) -> None:
        super().__init__(f"node {node_id} cannot be had any more")
        self.node_id = node_id


@dataclass(frozen=True, slots=True)
class Claim:
    """A request that is ours to fulfil, with the nodes that were claimed for it."""

    request: NodeRequest
    lock: str
    nodes: tuple[HeldNode, ...]


class Store:
    """The transactions. One a launcher; it shares the mirror's knowledge of versions."""

    def __init__(self, client: ZooKeeperClient, mirror: Mirror) -> None:
        self._client = client
        self._session = client.session
        self._mirror = mirror
        self._hostname = socket.getfqdn()
        self.ledgers = Ledgers(client, mirror)

    @property
    def session_over(self) -> bool:
        """Whether what was held when this store was made is somebody else's by now."""
        return self._session.over

    # --- start-up -----------------------------------------------------------------------

    async def prepare(self) -> str:
        """Make the parents that are missing; the deployment's UUID, made once."""
        for path in PARENTS:
            await self._client.ensure_path(path)
        with suppress(Conflict):
            await self._client.transaction([Create(paths.DEPLOYMENT, str(uuid.uuid4()).encode())])
        data, _ = await self._client.get(paths.DEPLOYMENT)
        return data.decode()

    async def register(self, component: Component) -> str:
        """Register a pool; the path of its ephemeral record."""
        path = f"{paths.POOL_COMPONENTS}/{self._hostname}-{random.getrandbits(64):016x}"
        await self._client.transaction([Create(path, self._encode(component), ephemeral=True)])
        # Known at once, or a request could fail for want of a pool that is only not heard of yet.
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
        """Ids of the requests that have a lock, held or not, whether they exist or not."""
        return await self._client.children(paths.REQUEST_LOCKS)

    async def deregister(self, path: str) -> None:
        """Remove a pool's record: from now on nobody yields to it, or waits for it."""
        with suppress(Conflict):
            await self._client.transaction([Delete(path)])

    # --- spare nodes -----------------------------------------------------------------------

    async def take_min_ready(self, label: str) -> bool:
        """Become the one who asks for a label's spare nodes; False where another one is."""
        try:
            await self._client.transaction([Create(min_ready_path(label), ephemeral=True)])
        except Conflict:
            return False
        return True

    async def give_up_min_ready(self, label: str) -> None:
        """Let another launcher ask for a label's spare nodes."""
        await self._delete_quietly(min_ready_path(label))

    async def submit_spare(self, request: NodeRequest, priority: str) -> str:
        """Write a request that lives as long as this session; its id. Raises ConnectionLost."""
        path = await self._client.create_sequence(
            f"{paths.REQUESTS}/{priority}-", encode_request(request), ephemeral=True
        )
        return path.rpartition("/")[2]

    async def delete_request(self, request_id: str) -> None:
        """Delete a request of ours; that it is gone is fine."""
        await self._delete_quietly(request_path(request_id))

    # --- claiming -----------------------------------------------------------------------

    async def draft_nodes(self, drafts: Sequence[Node]) -> list[Node]:
        """Create the znodes of nodes to be, so that they have ids; concurrently.

        Their data is never empty: Nodepool deletes empty node znodes under our hands.
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
        """Delete drafted znodes that came to nothing."""
        for draft in drafts:
            await self._delete_quietly(node_path(draft.id), version=0)

    async def claim(
        self, request: NodeRequest, nodes: Sequence[Node], entries: Sequence[LedgerChange]
    ) -> Claim:
        """Take the request, reserve the quota and write the node records, at once.

        ``request`` and ``nodes`` are as they shall be written, with the versions they
        were read at; the nodes are drafts to be filled in, and ready ones to be reused.
        Raises AtQuota, NodeTaken, Held (somebody has the request's lock), Outdated or
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
        """The node as it stands in ZooKeeper now. Raises NotHeld where it is gone."""
        try:
            data, stat = await self._client.get(node_path(held.node.id))
        except Vanished as error:
            raise NotHeld(f"node {held.node.id} was removed by somebody") from error
        return dataclasses.replace(held, node=parse_node(held.node.id, data, stat.version))

    def _written(self, held: HeldNode) -> HeldNode:
        written = held.evolve(version=held.node.version + 1)
        self._mirror.put_node(written.node)
        return written

    async def hand_over(
        self, claim: Claim, request: NodeRequest, nodes: Sequence[HeldNode], unwritten: int
    ) -> None:
        """Set the request as given and free every lock of ours on it, at once.

        The last ``unwritten`` nodes are written in it too; the others must stand in
        ZooKeeper as given. Raises Vanished (the request is gone), Outdated (a node was
        changed by somebody), NotHeld, SessionLost.
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
        """Set the request as given (requested again, or failed) and free its lock.

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
                # Written without its lock, which we hold: what we say of it stands.
                version = (await self._client.get(path))[1].version
            else:
                break
        self._mirror.disown(path)
        self._mirror.put_request(dataclasses.replace(request, version=version + 1))

    async def abandon_request(self, claim: Claim) -> None:
        """The request is gone: free its lock."""
        self._mirror.disown(request_path(claim.request.id))
        await self._delete_quietly(claim.lock)
        await self.drop_request_lock(claim.request.id)

    async def _as_holder(self, lock: str, operations: Sequence[Operation]) -> None:
        try:
            await self._client.transaction(operations)
        except TransactionConflict as conflict:
            if conflict.operation.path == lock:
                raise NotHeld(f"the lock {lock} is not ours any more") from conflict
            raise

    # --- requests that are not ours --------------------------------------------------------------

    async def rewrite_request(self, request: NodeRequest) -> NodeRequest:
        """Write a request that nobody holds: a refusal, or a reset.

        Proves in the same transaction that nobody holds its lock. Raises Held,
        Outdated, Vanished, SessionLost.
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
        """Apply all of it. Raises what stood in the way: Held, Outdated, Vanished."""
        try:
            await self.ledgers.transact(entries, operations, lock_set)
        except TransactionConflict as conflict:
            raise conflict.cause from conflict

    async def drop_request_lock(self, request_id: str) -> None:
        """Delete the lock's parent of a request that is gone, if nobody contends for it."""
        await self._delete_quietly(request_lock_path(request_id))

    # --- removing nodes ---------------------------------------------------------------------------

    async def take_node(
        self, node_id: str, change: Callable[[Node], Node | None]
    ) -> HeldNode | None:
        """Lock a node that nobody holds and write it as ``change`` says, at once.

        ``change`` sees the record as it stands, and returns None to leave it alone;
        then the answer is None. Raises Held, Vanished, Outdated, SessionLost.
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
        """The nodes with every key of their records, concurrently.

        Raises NodeTaken where one cannot be had any more, SessionLost.
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
        """Have the mirror show a node as it is by now; False where it is gone."""
        await self._client.sync(paths.NODES)
        try:
            self._mirror.put_node(await self._get_node(node_id))
        except (Vanished, MalformedRecord):
            return False
        return True

    async def catch_up(self, ledger: str, node_ids: Sequence[str]) -> None:
        """Have the mirror show these nodes, and then that ledger, as they are by now.

        What was removed meanwhile the mirror has heard of before the ledger is read.
        """
        await asyncio.gather(*(self.refresh_node(node_id) for node_id in node_ids))
        await self.ledgers.read(ledger)

    async def _get_node(self, node_id: str) -> Node:
        data, stat = await self._client.get(node_path(node_id))
        return parse_node(node_id, data, stat.version)

    # --- letting nodes go --------------------------------------------------------------------

    async def free_held(self, held: HeldNode) -> None:
        """Make a ready node that we hold nobody's, and let it go.

        Raises Outdated (somebody changed it), NotHeld, SessionLost.
        """
        node = _freed(held.node)
        operations: list[Operation] = [_write(node), Delete(held.lock)]
        try:
            await self.ledgers.transact(released_for_tenant(held.node), operations)
        except TransactionConflict as conflict:
            if conflict.operation.path == held.lock:
                raise NotHeld(f"the lock {held.lock} is not ours any more") from conflict
            raise conflict.cause from conflict
        self._written(HeldNode(node, held.lock))
        self._mirror.disown(node_path(node.id))

    async def free_node(
        self, node_id: str, request: NodeRequest | None, is_due: Callable[[Node], bool]
    ) -> bool:
        """Make a ready node that nobody holds nobody's, if it is due; whether it was.

        ``request`` is what it is allocated to, which must stand as given; None: it is gone.
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
        """Delete the node's record and free what the ledger holds for it, at once.

        Raises Held where somebody contends for the node: it is marked deleted and
        unlocked then, so that he sees that there is nothing to have, and leaves; the
        removal is to be begun anew after that. Raises NotHeld, SessionLost.
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
            raise NotHeld(f"node {held.node.id} was removed by somebody") from error
        except (Held, Outdated) as error:
            await self._mark_deleted(held)
            raise Held(f"somebody contends for node {held.node.id}") from error

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
        """Delete a node's znode without data that a contender's lock left behind."""
        await self._delete_quietly(node_lock_path(node_id))
        with suppress(Vanished):
            data, stat = await self._client.get(node_path(node_id))
            if not data:
                await self._delete_quietly(node_path(node_id), version=stat.version)

    async def _delete_quietly(self, path: str, version: int = -1) -> None:
        """Delete a znode; that it is gone, changed or has children is fine."""
        with suppress(Conflict):
            await self._client.transaction([Delete(path, version)])

    # --- upkeep -------------------------------------------------------------------------

    async def request_exists(self, request_id: str) -> bool:
        """Whether a request exists, asked of the leader, not of the mirror."""
        await self._client.sync(paths.REQUESTS)
        return await self._client.exists(request_path(request_id)) is not None

    async def read_request(self, request_id: str) -> NodeRequest | None:
        """A request, asked of the leader, not of the mirror; None where it is not there.

        Raises MalformedRecord, SessionLost.
        """
        await self._client.sync(paths.REQUESTS)
        try:
            data, stat = await self._client.get(request_path(request_id))
        except Vanished:
            return None
        return parse_request(request_id, data, stat.version)

    async def read_node(self, node_id: str) -> Node | None:
        """A node's record, asked of the leader, not of the mirror; None where it is not there.

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
    """Tell a ready node that went from a request that went."""
    for node in nodes:
        if conflict.operation.path in (node_path(node.id), node_lock_path(node.id)):
            raise NodeTaken(node.id) from conflict
    raise conflict.cause from conflict
