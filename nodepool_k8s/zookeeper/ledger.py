"""The quota ledgers: one znode a pool, and one a tenant with limits; totals of their nodes.

Every claim and every removal changes its ledgers in its own transaction, at the
versions they were read at. So the ledger never lags behind the records, and a claim decided
from it cannot be wrong; totals instead of an entry a node make it cost the same with ten
thousand nodes. What somebody removes without the ledger, ``reconcile`` finds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from nodepool_k8s import wire
from nodepool_k8s.errors import Conflict, MalformedRecord, Vanished
from nodepool_k8s.model import Ledger, Node, Resources
from nodepool_k8s.zookeeper.client import TransactionConflict, ZooKeeperClient
from nodepool_k8s.zookeeper.locks import Taking
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
class Entry:
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


def freed(node: Node) -> list[Entry]:
    """What the ledgers get back when the node's record goes."""
    if node.claimed is None or node.provider is None or node.pool is None:
        return []
    change = Resources() - node.claimed
    return [Entry(wire.ledger_path(node.provider, node.pool), change), *freed_for_tenant(node)]


def freed_for_tenant(node: Node) -> list[Entry]:
    """What its tenant's ledger gets back when the node is nobody's any more."""
    if node.claimed is None or node.counted_for is None:
        return []
    return [Entry(wire.tenant_ledger_path(node.counted_for), Resources() - node.claimed)]


class Ledgers:
    """The ledgers of all pools and tenants, as this launcher reads and changes them."""

    def __init__(self, client: ZooKeeperClient, mirror: Mirror) -> None:
        self._client = client
        self._mirror = mirror
        self._turn: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def require_room(self, entries: Sequence[Entry]) -> None:
        """Raise AtQuota where a claim would fail at a ledger, before drafting nodes for it.

        A cheap look at what is known; the claim itself looks at what is true.
        """
        for entry in entries:
            await self._ledger_for(entry)

    async def transact(
        self,
        entries: Sequence[Entry],
        operations: Sequence[Operation],
        taking: Taking | None = None,
    ) -> None:
        """Apply ``operations`` together with changes of ledgers, and take locks.

        Raises AtQuota, and TransactionConflict for what no other try can mend.
        """
        async with self._turns(entries):
            while True:
                ledgers = [await self._ledger_for(entry) for entry in entries]
                written = [
                    Ledger(ledger.claimed + entry.change, ledger.version + 1)
                    for entry, ledger in zip(entries, ledgers, strict=True)
                ]
                writes = [
                    SetData(entry.path, wire.encode_ledger(new.claimed), new.version - 1)
                    for entry, new in zip(entries, written, strict=True)
                ]
                locking = taking.operations() if taking else []
                try:
                    await self._client.transaction([*operations, *locking, *writes])
                except TransactionConflict as conflict:
                    if conflict.operation in writes:
                        await self.read(conflict.operation.path)
                    elif taking is None or not taking.learn(conflict):
                        raise
                else:
                    for entry, new in zip(entries, written, strict=True):
                        self._mirror.ledgers[entry.path] = new
                    return

    @asynccontextmanager
    async def _turns(self, entries: Sequence[Entry]) -> AsyncIterator[None]:
        """One at a time in this launcher: two at one version would only make one fail."""
        async with AsyncExitStack() as stack:
            # In one order for everybody, or two could wait for each other.
            for path in sorted(entry.path for entry in entries):
                await stack.enter_async_context(self._turn[path])
            yield

    async def _ledger_for(self, entry: Entry) -> Ledger:
        """The ledger as it is known, or, where that has no room, as it is; raises AtQuota."""
        known = self._mirror.ledgers.get(entry.path)
        if known is not None and entry.has_room(known):
            return known
        ledger = await self.read(entry.path)
        entry.require_room(ledger)
        return ledger

    async def read(self, path: str) -> Ledger:
        """The ledger as it is, which the mirror shows from now on. Raises SessionLost."""
        while True:
            try:
                data, stat = await self._client.get(path)
                ledger = Ledger(wire.parse_ledger(data), stat.version)
            except Vanished:
                # The first claim; or somebody removed it, and its nodes still count.
                await self._client.ensure_path(path.rpartition("/")[0])
                await self._recount(path, None)
            except MalformedRecord as error:
                log.warning("%s is counted anew: %s", path, error)
                await self._recount(path, stat.version)
            else:
                self._mirror.ledgers[path] = ledger
                return ledger

    async def _recount(self, path: str, version: int | None) -> None:
        """Write a ledger that is not there (None), or cannot be read, from the records."""
        claimed = await self._sum_of_records(path)
        with suppress(Conflict):
            data = wire.encode_ledger(claimed)
            write = Create(path, data) if version is None else SetData(path, data, version)
            await self._client.transaction([write])

    async def reconcile(self, path: str) -> Resources | None:
        """Set a ledger to the sum of its records, if it is anything else.

        Every claim and removal changes the ledger's version, so a sum made while the
        version stood still is true. The correction, or None where nothing was written.
        """
        async with self._turn[path]:
            ledger = await self.read(path)
            total = await self._sum_of_records(path)
            if total == ledger.claimed:
                return None
            try:
                await self._client.transaction(
                    [SetData(path, wire.encode_ledger(total), ledger.version)]
                )
            except TransactionConflict:
                return None
            self._mirror.ledgers[path] = Ledger(total, ledger.version + 1)
            return total - ledger.claimed

    async def _sum_of_records(self, path: str) -> Resources:
        await self._client.sync(wire.NODES)
        total = Resources()
        for node_id in await self._client.children(wire.NODES):
            node = await self._node_or_none(node_id, path)
            if node and path in (entry.path for entry in freed(node)):
                total += node.claimed or Resources()
        return total

    async def _node_or_none(self, node_id: str, path: str) -> Node | None:
        known = self._mirror.nodes.get(node_id)
        if known is not None and known.claimed is not None and wire.pool_of_ledger(path):
            # What a record has claimed of its pool never changes while it exists; for whom
            # it counts does.
            return known
        try:
            data, stat = await self._client.get(wire.node_path(node_id))
            return wire.parse_node(node_id, data, stat.version)
        except (Vanished, MalformedRecord):
            return None
