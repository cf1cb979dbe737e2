"""The quota ledgers: one znode per pool and one per tenant with limits; totals of their nodes.

Every claim and every removal changes its ledgers in its own transaction, at the versions
they were read at. So the ledger never lags behind the records, and a claim that is decided
from it is correct. Totals, instead of an entry per node, cost the same with ten thousand
nodes. Records that were removed without their ledger are found by ``reconcile``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from nodepool_k8s.errors import Conflict, MalformedRecord, Vanished
from nodepool_k8s.model import Ledger, Node, Resources
from nodepool_k8s.znodes import paths
from nodepool_k8s.znodes.ledgers import encode_ledger, parse_ledger
from nodepool_k8s.znodes.nodes import parse_node
from nodepool_k8s.znodes.paths import ledger_path, node_path, pool_of_ledger, tenant_ledger_path
from nodepool_k8s.zookeeper.client import TransactionConflict, ZooKeeperClient
from nodepool_k8s.zookeeper.locks import LockSet
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.operations import Create, Operation, SetData

log = logging.getLogger(__name__)


class AtQuota(Conflict):
    """The claim would go above a limit; ``path`` is the ledger that says so."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the ledger {path} has no room")
        self.path = path


Fits = Callable[[Resources], bool]
"""Whether a claim may be made when this much is in use; decided from the ledger alone."""


@dataclass(frozen=True, slots=True)
class LedgerChange:
    """What a transaction adds to one ledger (or takes off it), and whether it may."""

    path: str
    change: Resources
    fits: Fits | None = None

    def require_room(self, ledger: Ledger) -> None:
        """Raise AtQuota where the ledger has no room for it."""
        if not self.has_room(ledger):
            raise AtQuota(self.path)

    def has_room(self, ledger: Ledger) -> bool:
        """Whether the ledger has room for it."""
        return self.fits is None or self.fits(ledger.claimed)


def released(node: Node) -> list[LedgerChange]:
    """What the ledgers get back when the node's record goes."""
    if node.claimed is None or node.provider is None or node.pool is None:
        return []
    change = Resources() - node.claimed
    return [LedgerChange(ledger_path(node.provider, node.pool), change), *released_for_tenant(node)]


def released_for_tenant(node: Node) -> list[LedgerChange]:
    """What the tenant's ledger gets back when the node is no longer allocated."""
    if node.claimed is None or node.counted_for is None:
        return []
    return [LedgerChange(tenant_ledger_path(node.counted_for), Resources() - node.claimed)]


class Ledgers:
    """The ledgers of all pools and tenants, as this launcher reads and changes them."""

    def __init__(self, client: ZooKeeperClient, mirror: Mirror) -> None:
        self._client = client
        self._mirror = mirror
        self._turn: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def require_room(self, changes: Sequence[LedgerChange]) -> None:
        """Raise AtQuota if a claim would fail at a ledger, before nodes are drafted for it.

        A cheap check of the ledgers as known here; the claim itself checks them in ZooKeeper.
        """
        for entry in changes:
            await self._ledger_for(entry)

    async def transact(
        self,
        changes: Sequence[LedgerChange],
        operations: Sequence[Operation],
        lock_set: LockSet | None = None,
    ) -> None:
        """Apply ``operations`` together with changes of ledgers, and take locks.

        Raises AtQuota, and TransactionConflict where another attempt cannot succeed.
        """
        async with self._turns(changes):
            while True:
                ledgers = [await self._ledger_for(entry) for entry in changes]
                written = [
                    Ledger(ledger.claimed + entry.change, ledger.version + 1)
                    for entry, ledger in zip(changes, ledgers, strict=True)
                ]
                writes = [
                    SetData(entry.path, encode_ledger(new.claimed), new.version - 1)
                    for entry, new in zip(changes, written, strict=True)
                ]
                locking = lock_set.operations() if lock_set else []
                try:
                    await self._client.transaction([*operations, *locking, *writes])
                except TransactionConflict as conflict:
                    if conflict.operation in writes:
                        await self.read(conflict.operation.path)
                    elif lock_set is None or not lock_set.adjust(conflict):
                        raise
                else:
                    for entry, new in zip(changes, written, strict=True):
                        self._mirror.ledgers[entry.path] = new
                    return

    @asynccontextmanager
    async def _turns(self, changes: Sequence[LedgerChange]) -> AsyncIterator[None]:
        """Serialize changes within this launcher: of two at one version, one would fail."""
        async with AsyncExitStack() as stack:
            # Always in the same order, or two callers could deadlock.
            for path in sorted(entry.path for entry in changes):
                await stack.enter_async_context(self._turn[path])
            yield

    async def _ledger_for(self, entry: LedgerChange) -> Ledger:
        """The ledger as known here or, if that has no room, as read now. Raises AtQuota."""
        known = self._mirror.ledgers.get(entry.path)
        if known is not None and entry.has_room(known):
            return known
        ledger = await self.read(entry.path)
        entry.require_room(ledger)
        return ledger

    async def read(self, path: str) -> Ledger:
        """Read the ledger from ZooKeeper and update the mirror. Raises SessionLost."""
        while True:
            try:
                data, stat = await self._client.get(path)
                ledger = Ledger(parse_ledger(data), stat.version)
            except Vanished:
                # The first claim, or the ledger was deleted while its nodes still count.
                await self._client.ensure_path(path.rpartition("/")[0])
                await self._recount(path, None)
            except MalformedRecord as error:
                log.warning("Recounting ledger %s from its records: %s", path, error)
                await self._recount(path, stat.version)
            else:
                self._mirror.ledgers[path] = ledger
                return ledger

    async def _recount(self, path: str, version: int | None) -> None:
        """Write a ledger that is missing (``version`` None) or unreadable from the records."""
        claimed = await self._sum_of_records(path)
        with suppress(Conflict):
            data = encode_ledger(claimed)
            write = Create(path, data) if version is None else SetData(path, data, version)
            await self._client.transaction([write])

    async def reconcile(self, path: str) -> Resources | None:
        """Set a ledger to the sum of its records if it differs.

        Every claim and removal changes the ledger's version, so a sum is correct if the
        version did not change meanwhile. Returns the correction, None if nothing was written.
        """
        async with self._turn[path]:
            ledger = await self.read(path)
            total = await self._sum_of_records(path)
            if total == ledger.claimed:
                return None
            try:
                await self._client.transaction(
                    [SetData(path, encode_ledger(total), ledger.version)]
                )
            except TransactionConflict:
                return None
            self._mirror.ledgers[path] = Ledger(total, ledger.version + 1)
            return total - ledger.claimed

    async def _sum_of_records(self, path: str) -> Resources:
        await self._client.sync(paths.NODES)
        total = Resources()
        for node_id in await self._client.children(paths.NODES):
            node = await self._node_or_none(node_id, path)
            if node and path in (entry.path for entry in released(node)):
                total += node.claimed or Resources()
        return total

    async def _node_or_none(self, node_id: str, path: str) -> Node | None:
        known = self._mirror.nodes.get(node_id)
        if known is not None and known.claimed is not None and pool_of_ledger(path):
            # What a record has claimed of its pool never changes while it exists; the tenant
            # that it counts for does.
            return known
        try:
            data, stat = await self._client.get(node_path(node_id))
            return parse_node(node_id, data, stat.version)
        except (Vanished, MalformedRecord):
            return None
