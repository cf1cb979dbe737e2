"""What a dead launcher, or a broken connection, left behind: found and put right.

Most of it is noticed the moment it happens, by the same events that drive everything
else; this pass is for what no event tells: leaked namespaces, a ledger that lost count,
drafts that nobody claimed. It runs at start-up and then every minute.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Iterable

from nodepool_k8s import wire
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.errors import Conflict, KubernetesError, MalformedRecord, SessionLost
from nodepool_k8s.kubernetes.cluster import Cluster
from nodepool_k8s.manifests import NODE_ID_LABEL
from nodepool_k8s.model import Namespace, NodeRequest, RequestState
from nodepool_k8s.policy import upkeep
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Store

log = logging.getLogger(__name__)

PASS_SECONDS = 60.0

LEAK_GRACE = 1.0
"""Seconds that a leaked namespace's pods get to end."""


class Upkeep:
    """The regular pass, and what it is made of."""

    def __init__(self, settings: Settings, store: Store, mirror: Mirror) -> None:
        self._settings = settings
        self._empty_before: set[str] = set()
        self._store = store
        self._mirror = mirror

    async def run(self) -> None:
        """A pass over ZooKeeper now, and one every minute."""
        while True:
            await self.reset_requests()
            await self.drop_lost_drafts(time.time())
            await self.drop_empty_nodes()
            await self.correct_ledgers()
            await asyncio.sleep(PASS_SECONDS)

    async def run_for(self, cluster: Cluster) -> None:
        """A pass over a provider's namespaces now, and one every minute."""
        while True:
            await self.delete_leaked_namespaces(cluster)
            await asyncio.sleep(PASS_SECONDS)

    # --- requests and drafts -----------------------------------------------------------------

    async def reset_requests(self) -> None:
        """Hand requests that were taken by a launcher that is gone to whoever wants them."""
        for request in list(self._mirror.requests.values()):
            await self.reset_request(request)

    async def reset_request(self, request: NodeRequest) -> None:
        """The same for one request, if it is such a one."""
        locked = self._mirror.request_locked(request.id)
        if not upkeep.is_left_behind(request, locked=locked):
            return
        requested = dataclasses.replace(
            request, state=RequestState.REQUESTED, state_time=time.time()
        )
        try:
            await self._store.rewrite_request(requested)
        except SessionLost:
            raise
        except Conflict:
            self._mirror.reread(wire.request_path(request.id))
        else:
            log.info("Request %s was left by a launcher that is gone; asking anew", request.id)

    async def drop_lost_drafts(self, now: float) -> None:
        """Delete drafts that were never claimed."""
        lost = [node for node in self._mirror.nodes.values() if upkeep.is_lost_draft(node, now)]
        await self._store.drop_drafts(lost)

    async def drop_empty_nodes(self) -> None:
        """Delete node znodes that were without data already at the last pass."""
        for node_id in self._empty_before & self._mirror.empty_nodes:
            await self._store.drop_empty_node(node_id)
        self._empty_before = set(self._mirror.empty_nodes)

    # --- namespaces ---------------------------------------------------------------------------

    async def delete_leaked_namespaces(self, cluster: Cluster) -> None:
        """Delete namespaces of our deployment that no node's record names."""
        try:
            await self._delete_leaked(cluster, await cluster.list_namespaces())
        except KubernetesError as error:
            log.warning("Provider %s: leaks cannot be looked for: %s", cluster.provider.name, error)

    async def _delete_leaked(self, cluster: Cluster, namespaces: Iterable[Namespace]) -> None:
        for namespace in namespaces:
            node = self._mirror.nodes.get(namespace.labels.get(NODE_ID_LABEL, ""))
            if upkeep.is_suspect(namespace, node) and await self._is_leaked(namespace):
                log.warning(
                    "Deleting leaked namespace %s: no node's record names it", namespace.name
                )
                await cluster.delete_node(namespace.name, LEAK_GRACE)

    async def _is_leaked(self, namespace: Namespace) -> bool:
        """Ask ZooKeeper itself, after the namespace was seen: records come first."""
        try:
            node = await self._store.read_node(namespace.labels.get(NODE_ID_LABEL, ""))
        except MalformedRecord:
            return False
        return upkeep.is_suspect(namespace, node)

    # --- quota -----------------------------------------------------------------------------------

    async def correct_ledgers(self) -> None:
        """Recount what has a ledger that is not known yet, or differs from the records."""
        for pool in self._settings.pools:
            path = wire.ledger_path(pool.provider, pool.name)
            await self._correct_ledger(path, f"pool {pool.key}")
        for tenant in self._settings.tenant_limits:
            await self._correct_ledger(wire.tenant_ledger_path(tenant), f"tenant {tenant}")

    async def _correct_ledger(self, path: str, whose: str) -> None:
        ledger = self._mirror.ledgers.get(path)
        if ledger is not None and ledger.claimed == self._mirror.usage(path).claimed:
            return
        change = await self._store.ledgers.reconcile(path)
        if change is not None:
            log.warning(
                "The quota ledger of %s was off by %s, as somebody removed records without it; "
                "corrected",
                whose,
                change.numbers(),
            )
