"""The quota ledgers: one znode a pool, with what its claimed nodes hold together.

Every claim and every removal changes the pool's ledger in its own transaction, at the
version it was read at. So the ledger never lags behind the records, and a claim decided
from it cannot be wrong; totals instead of an entry a node make it cost the same with ten
thousand nodes. What somebody removes without the ledger, ``reconcile`` finds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from nodepool_k8s import wire
from nodepool_k8s.errors import Conflict, MalformedRecord, Vanished
from nodepool_k8s.model import Ledger, Node, Resources
from nodepool_k8s.zookeeper import locks
from nodepool_k8s.zookeeper.client import TransactionConflict, ZooKeeperClient
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.operations import Create, Operation, SetData

log = logging.getLogger(__name__)


class AtQuota(Conflict):
    """The claim would go above a limit of the pool."""


Fits = Callable[[Resources], bool]
"""Whether a claim may be made when this much is in use; decided from the ledger alone."""


class Ledgers:
    """The ledgers of all pools, as this launcher reads and changes them."""

    def __init__(self, client: ZooKeeperClient, mirror: Mirror) -> None:
        self._client = client
        self._mirror = mirror
        self._turn: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def require_room(self, pool: tuple[str, str], fits: Fits) -> None:
        """Raise AtQuota where a claim would fail at its ledger, before drafting nodes for it.

        A cheap look at what is known; the claim itself looks at what is true.
        """
        path = wire.ledger_path(*pool)
        ledger = self._mirror.ledgers.get(path)
        if ledger is not None and fits(ledger.claimed):
            return
        if not fits((await self._read(path)).claimed):
            raise AtQuota(f"{pool[0]}/{pool[1]}")

    async def transact(
        self,
        pool: tuple[str, str],
        change: Resources,
        fits: Fits | None,
        operations: Callable[[bool], list[Operation]],
        lock: str | None,
    ) -> None:
        """Apply ``operations`` together with a change of the pool's ledger.

        ``operations`` is asked with whether the parent of ``lock`` has to be made
        (it did not exist) or replaced (it did).
        """
        path = wire.ledger_path(*pool)
        fresh = True
        # One at a time in this launcher: two at one version would only make one fail.
        async with self._turn[path]:
            while True:
                ledger = self._mirror.ledgers.get(path) or await self._read(path)
                if fits is not None and not fits(ledger.claimed):
                    ledger = await self._read(path)
                    if not fits(ledger.claimed):
                        raise AtQuota(f"{pool[0]}/{pool[1]}")
                claimed = ledger.claimed + change
                write = SetData(path, wire.encode_ledger(claimed), ledger.version)
                try:
                    await self._client.transaction([*operations(fresh), write])
                except TransactionConflict as conflict:
                    if conflict.operation.path == path:
                        await self._read(path)
                    elif lock is not None and conflict.operation.path == lock:
                        fresh = locks.is_fresh(conflict)
                    else:
                        raise conflict.cause from conflict
                else:
                    self._mirror.ledgers[path] = Ledger(claimed, ledger.version + 1)
                    return

    async def _read(self, path: str) -> Ledger:
        while True:
            try:
                data, stat = await self._client.get(path)
                ledger = Ledger(wire.parse_ledger(data), stat.version)
            except Vanished:
                # A pool's first claim; or somebody removed it, and its nodes still count.
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
        pool = wire.pool_of_ledger(path)
        claimed = await self._sum_of_records(*pool) if pool else Resources()
        with suppress(Conflict):
            data = wire.encode_ledger(claimed)
            write = Create(path, data) if version is None else SetData(path, data, version)
            await self._client.transaction([write])

    async def reconcile(self, provider: str, pool: str) -> Resources | None:
        """Set a pool's ledger to the sum of its records, if it is anything else.

        Every claim and removal changes the ledger's version, so a sum made while the
        version stood still is true. The correction, or None where nothing was written.
        """
        path = wire.ledger_path(provider, pool)
        async with self._turn[path]:
            ledger = await self._read(path)
            total = await self._sum_of_records(provider, pool)
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

    async def _sum_of_records(self, provider: str, pool: str) -> Resources:
        await self._client.sync(wire.NODES)
        total = Resources()
        for node_id in await self._client.children(wire.NODES):
            node = await self._node_or_none(node_id)
            if node and node.claimed and (node.provider, node.pool) == (provider, pool):
                total += node.claimed
        return total

    async def _node_or_none(self, node_id: str) -> Node | None:
        known = self._mirror.nodes.get(node_id)
        if known is not None and known.claimed is not None:
            # What a record has claimed never changes while it exists.
            return known
        try:
            data, stat = await self._client.get(wire.node_path(node_id))
            return wire.parse_node(node_id, data, stat.version)
        except (Vanished, MalformedRecord):
            return None
