"""Cleans up what a dead launcher or a broken connection left in ZooKeeper.

Most of it is noticed at once by events. This pass handles what no event reports: wrong
quota ledgers, drafts that were never claimed, stale locks, nodes of providers that are no
longer configured. It runs at start-up and then every minute; ``provider_upkeep`` has the
passes over the providers' backends.
"""

from __future__ import annotations

import asyncio
import logging
import time

from nodepool_k8s.config.settings import Settings
from nodepool_k8s.errors import Conflict, SessionLost
from nodepool_k8s.launcher.delete import Deleter
from nodepool_k8s.launcher.intervals import Intervals
from nodepool_k8s.launcher.provider_upkeep import ProviderUpkeep
from nodepool_k8s.model import NodeRequest, RequestState
from nodepool_k8s.policy import upkeep
from nodepool_k8s.policy.lifecycle import move_request
from nodepool_k8s.znodes.paths import ledger_path, request_path, tenant_ledger_path
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Store

log = logging.getLogger(__name__)


class Upkeep:
    """The regular pass and its parts."""

    def __init__(
        self,
        settings: Settings,
        deleter: Deleter,
        store: Store,
        mirror: Mirror,
        provider_upkeep: ProviderUpkeep,
        intervals: Intervals,
    ) -> None:
        self._settings = settings
        self._deleter = deleter
        self._store = store
        self._mirror = mirror
        self._provider_upkeep = provider_upkeep
        self._intervals = intervals
        self._empty_before: set[str] = set()
        self._stale_before: set[str] = set()
        self._unoffered_before: set[str] = set()

    def reconfigure(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings

    async def run(self) -> None:
        """Run a pass now and one every minute."""
        while True:
            await self.step()
            await asyncio.sleep(self._intervals.upkeep)

    async def step(self) -> None:
        """One pass over ZooKeeper."""
        await self.reset_requests()
        await self.drop_lost_drafts(time.time())
        await self.drop_empty_nodes()
        await self.drop_stale_locks()
        await self.correct_ledgers()
        self.consider_nodes()
        await self.delete_unoffered_nodes()
        await self._provider_upkeep.connect_again()

    # --- requests and drafts -----------------------------------------------------------------

    async def reset_requests(self) -> None:
        """Set pending requests of stopped launchers back to requested."""
        for request in list(self._mirror.requests.values()):
            await self.reset_request(request)

    async def reset_request(self, request: NodeRequest) -> None:
        """Set one request back to requested, if its launcher has stopped."""
        locked = self._mirror.request_locked(request.id)
        if not upkeep.is_left_behind(request, locked=locked):
            return
        requested = move_request(request, RequestState.REQUESTED, time.time())
        try:
            await self._store.rewrite_request(requested)
        except SessionLost:
            raise
        except Conflict:
            self._mirror.reread(request_path(request.id))
        else:
            log.info("Request %s was left by a stopped launcher; set back to requested", request.id)
            self._deleter.consider_nodes_of(request.id)

    async def drop_lost_drafts(self, now: float) -> None:
        """Delete drafts that were never claimed."""
        lost = [node for node in self._mirror.nodes.values() if upkeep.is_lost_draft(node, now)]
        await self._store.drop_drafts(lost)

    async def drop_empty_nodes(self) -> None:
        """Delete node znodes that had no data at the last pass either."""
        for node_id in self._empty_before & self._mirror.empty_nodes:
            await self._store.drop_empty_node(node_id)
        self._empty_before = set(self._mirror.empty_nodes)

    async def drop_stale_locks(self) -> None:
        """Delete free locks of requests that did not exist at the last pass either.

        A client that is about to acquire one creates it again.
        """
        stale = {
            request_id
            for request_id in await self._store.request_locks()
            if request_id not in self._mirror.requests
            and not self._mirror.request_locked(request_id)
        }
        for request_id in self._stale_before & stale:
            # An unreadable request is not in the mirror, but exists.
            if not await self._store.request_exists(request_id):
                await self._store.drop_request_lock(request_id)
        self._stale_before = stale

    # --- providers that are no longer configured ------------------------------------------------

    def consider_nodes(self) -> None:
        """Delete due nodes that another launcher served until it stopped."""
        for node_id in list(self._mirror.nodes):
            self._deleter.consider(node_id)

    async def delete_unoffered_nodes(self) -> None:
        """Delete unused ready nodes whose label no pool offers, at the last pass either."""
        components = list(self._mirror.components.values())
        unoffered = {
            node.id
            for node in self._mirror.nodes.values()
            if upkeep.is_unoffered(node, components, moved=self._provider_upkeep.has_moved(node))
        }
        for node_id in unoffered & self._unoffered_before:
            await self._deleter.remove_unoffered(node_id, "no pool offers its label")
        self._unoffered_before = unoffered

    # --- quota -----------------------------------------------------------------------------------

    async def correct_ledgers(self) -> None:
        """Correct ledgers that are unknown or differ from the records."""
        for pool in self._settings.pools:
            path = ledger_path(pool.provider, pool.name)
            await self._correct_ledger(path, f"pool {pool.key}")
        for tenant in self._settings.tenant_limits:
            await self._correct_ledger(tenant_ledger_path(tenant), f"tenant {tenant}")

    async def _correct_ledger(self, path: str, owner: str) -> None:
        ledger = self._mirror.ledgers.get(path)
        if ledger is not None and ledger.claimed == self._mirror.usage(path).claimed:
            return
        change = await self._store.ledgers.reconcile(path)
        if change is not None:
            log.warning(
                "Corrected the quota ledger of %s by %s: records were removed without it",
                owner,
                change.numbers(),
            )
