"""What a dead launcher, or a broken connection, left behind: found and put right.

Most of it is noticed the moment it happens, by the same events that drive everything
else; these passes are for what no event tells: leaked namespaces, a ledger that lost
count, drafts that nobody claimed, what is left of a provider that was taken out. They
run at start-up and then every minute, one over ZooKeeper and one over each cluster.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from nodepool_k8s import telemetry
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.errors import Conflict, KubernetesError, MalformedRecord, SessionLost, describe
from nodepool_k8s.kubernetes.cluster import Cluster
from nodepool_k8s.launcher.clusters import Clusters
from nodepool_k8s.launcher.delete import Deleter
from nodepool_k8s.launcher.intervals import Intervals
from nodepool_k8s.launcher.progress import ProgressReporter
from nodepool_k8s.manifests import NODE_ID_LABEL, PROVIDER_LABEL
from nodepool_k8s.model import Namespace, Node, NodeRequest, ProviderCluster, RequestState
from nodepool_k8s.naming import valid_label_value
from nodepool_k8s.policy import upkeep
from nodepool_k8s.policy.lifecycle import move_request
from nodepool_k8s.znodes.nodes import provider_cluster_of
from nodepool_k8s.znodes.paths import ledger_path, request_path, tenant_ledger_path
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.provider_clusters import ProviderClusters
from nodepool_k8s.zookeeper.store import Store

log = logging.getLogger(__name__)

LEAK_GRACE = 1.0
"""Seconds that a leaked namespace's pods get to end."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """A namespace of ours that stays Terminating, and what holds it."""

    provider: str
    namespace: str
    since: float
    """When its deletion was accepted, in seconds since the epoch."""
    blockers: tuple[str, ...]
    """In Kubernetes' words; empty where it says nothing."""


class Upkeep:
    """The regular passes, and what they are made of."""

    def __init__(
        self,
        settings: Settings,
        clusters: Clusters,
        deleter: Deleter,
        store: Store,
        mirror: Mirror,
        homes: ProviderClusters,
        reports: ProgressReporter,
        intervals: Intervals,
    ) -> None:
        self._settings = settings
        self._clusters = clusters
        self._deleter = deleter
        self._store = store
        self._mirror = mirror
        self._homes = homes
        self._reports = reports
        self._intervals = intervals
        self._empty_before: set[str] = set()
        self._stale_before: set[str] = set()
        self._unoffered_before: set[str] = set()
        self._report_at: dict[Cluster, dict[str, float]] = {}
        """By UID: the age at which a stuck namespace is reported again."""
        self._stuck: dict[Cluster, tuple[Stuck, ...]] = {}

    @property
    def stuck(self) -> tuple[Stuck, ...]:
        """Namespaces that were Terminating for too long when they were last looked at."""
        return tuple(entry for entries in self._stuck.values() for entry in entries)

    def reconfigure(self, settings: Settings) -> None:
        """Look after these settings' pools and providers from now on."""
        self._settings = settings

    async def run(self) -> None:
        """A pass over ZooKeeper now, and one every minute."""
        while True:
            await self.step()
            await asyncio.sleep(self._intervals.upkeep)

    async def step(self) -> None:
        """One pass over ZooKeeper."""
        await self.reset_requests()
        await self.drop_lost_drafts(time.time())
        await self.drop_empty_nodes()
        await self.drop_stale_locks()
        await self._reports.drop_stale()
        await self.correct_ledgers()
        self.consider_nodes()
        await self.delete_unoffered_nodes()
        await self.connect_to_homes()

    async def run_for(self, cluster: Cluster) -> None:
        """A pass over a cluster now, and one every minute, for as long as it is open."""
        try:
            while self._clusters.is_open(cluster):
                await self.step_for(cluster)
                await asyncio.sleep(self._intervals.upkeep)
        finally:
            self._stuck.pop(cluster, None)
            self._report_at.pop(cluster, None)

    async def step_for(self, cluster: Cluster) -> None:
        """One pass over a cluster."""
        home = ProviderCluster(cluster.provider.name, cluster.provider.context, cluster.uid)
        if self._is_served_here(home):
            await self._homes.remember(home)
        try:
            # Before the records: each namespace's comes first.
            namespaces = await cluster.reader.list_namespaces()
            await self._delete_leaked(cluster, namespaces)
            await self._report_stuck(cluster, namespaces, time.time())
        except KubernetesError as error:
            log.warning("Provider %s: leaks cannot be looked for: %s", cluster.provider.name, error)
        else:
            await self._leave_if_empty(cluster, home, namespaces)

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
        requested = move_request(request, RequestState.REQUESTED, time.time())
        try:
            await self._store.rewrite_request(requested)
        except SessionLost:
            raise
        except Conflict:
            self._mirror.reread(request_path(request.id))
        else:
            log.info("Request %s was left by a launcher that is gone; asking anew", request.id)
            self._deleter.consider_nodes_of(request.id)

    async def drop_lost_drafts(self, now: float) -> None:
        """Delete drafts that were never claimed."""
        lost = [node for node in self._mirror.nodes.values() if upkeep.is_lost_draft(node, now)]
        await self._store.drop_drafts(lost)

    async def drop_empty_nodes(self) -> None:
        """Delete node znodes that were without data already at the last pass."""
        for node_id in self._empty_before & self._mirror.empty_nodes:
            await self._store.drop_empty_node(node_id)
        self._empty_before = set(self._mirror.empty_nodes)

    async def drop_stale_locks(self) -> None:
        """Delete locks that nobody holds, of requests that were gone already at the last pass.

        Whoever is about to take one finds it gone and makes it anew.
        """
        stale = {
            request_id
            for request_id in await self._store.request_locks()
            if request_id not in self._mirror.requests
            and not self._mirror.request_locked(request_id)
        }
        for request_id in self._stale_before & stale:
            # One that cannot be read is not in the mirror, and not gone.
            if not await self._store.request_exists(request_id):
                await self._store.drop_request_lock(request_id)
        self._stale_before = stale

    # --- namespaces ---------------------------------------------------------------------------

    async def _delete_leaked(self, cluster: Cluster, namespaces: Iterable[Namespace]) -> None:
        """Delete namespaces of our deployment that no node's record names."""
        for namespace in namespaces:
            node = self._mirror.nodes.get(namespace.labels.get(NODE_ID_LABEL, ""))
            if upkeep.is_suspect(namespace, node) and await self._is_leaked(namespace):
                log.warning(
                    "Deleting leaked namespace %s: no node's record names it", namespace.name
                )
                await cluster.deleter.delete_node(namespace.name, LEAK_GRACE)
                telemetry.leak_deleted(cluster.provider.name)

    async def _is_leaked(self, namespace: Namespace) -> bool:
        """Ask ZooKeeper itself, after the namespace was seen: records come first."""
        try:
            node = await self._store.read_node(namespace.labels.get(NODE_ID_LABEL, ""))
        except MalformedRecord:
            return False
        return upkeep.is_suspect(namespace, node)

    async def _report_stuck(
        self, cluster: Cluster, namespaces: Iterable[Namespace], now: float
    ) -> None:
        """Say what holds the namespaces that stay Terminating, again after ever longer."""
        found, before = [], self._report_at.get(cluster, {})
        report_at: dict[str, float] = {}
        for namespace in namespaces:
            age = upkeep.stuck_for(namespace, now)
            if age is None or age < self._intervals.stuck:
                continue
            stuck = Stuck(
                cluster.provider.name,
                namespace.name,
                now - age,
                await _blockers(cluster, namespace.name),
            )
            found.append(stuck)
            report_at[namespace.uid] = before.get(namespace.uid, 0.0)
            if age >= report_at[namespace.uid]:
                report_at[namespace.uid] = upkeep.next_report(age, self._intervals.stuck)
                log.warning(
                    "Namespace %s of provider %s has been Terminating for %.0f s: %s",
                    stuck.namespace,
                    stuck.provider,
                    age,
                    "; ".join(stuck.blockers) or "Kubernetes does not say what holds it",
                )
        self._stuck[cluster], self._report_at[cluster] = tuple(found), report_at

    # --- providers that were taken out ----------------------------------------------------------

    def consider_nodes(self) -> None:
        """Delete what became ours to delete, as the launcher that served it has left."""
        for node_id in list(self._mirror.nodes):
            self._deleter.consider(node_id)

    async def delete_unoffered_nodes(self) -> None:
        """Delete unused ready nodes that no pool offered already at the last pass."""
        components = list(self._mirror.components.values())
        unoffered = {
            node.id
            for node in self._mirror.nodes.values()
            if upkeep.is_unoffered(node, components, moved=self._has_moved(node))
        }
        for node_id in unoffered & self._unoffered_before:
            await self._deleter.remove_unoffered(node_id, "no pool offers its label any more")
        self._unoffered_before = unoffered

    async def connect_to_homes(self) -> None:
        """Connect to the clusters where a provider that nobody serves any more has something."""
        for home in {*await self._homes.all(), *self._homes_of_nodes()}:
            if self._is_built_anew(home):
                await self._homes.forget(home)
            elif not self._is_served(home):
                self._clusters.connect_again(home)

    def _homes_of_nodes(self) -> set[ProviderCluster]:
        homes = (provider_cluster_of(node) for node in self._mirror.nodes.values())
        return {home for home in homes if home is not None}

    def _is_served(self, home: ProviderCluster) -> bool:
        return self._is_served_here(home) or upkeep.is_served_elsewhere(
            home.provider, self._settings.providers, self._mirror.components.values()
        )

    def _is_served_here(self, home: ProviderCluster) -> bool:
        if home.provider not in self._clusters:
            return False
        cluster = self._clusters[home.provider]
        if cluster.uid:
            return cluster.uid == home.cluster
        return cluster.provider.context == home.context

    def _is_built_anew(self, home: ProviderCluster) -> bool:
        """Whether the cluster that was meant is no more, and another one has its name."""
        if home.provider not in self._clusters:
            return False
        cluster = self._clusters[home.provider]
        return cluster.provider.context == home.context and cluster.uid not in ("", home.cluster)

    def _has_moved(self, node: Node) -> bool:
        """Whether a node's provider is served here, with another cluster than the node's."""
        home = provider_cluster_of(node)
        if home is None or home.provider not in self._clusters:
            return False
        return self._clusters[home.provider].uid not in ("", home.cluster)

    async def _leave_if_empty(
        self, cluster: Cluster, home: ProviderCluster, namespaces: Iterable[Namespace]
    ) -> None:
        """Close a cluster that no provider uses any more, and where nothing is left."""
        if cluster not in self._clusters.retired:
            return
        if any(_is_in(node, home) for node in self._mirror.nodes.values()):
            return
        label = valid_label_value(home.provider)
        if any(entry.labels.get(PROVIDER_LABEL) == label for entry in namespaces):
            return
        if not self._is_served(home):
            await self._homes.forget(home)
        log.info("Nothing is left of provider %s in context %s", home.provider, home.context)
        await self._clusters.dismiss(cluster)

    # --- quota -----------------------------------------------------------------------------------

    async def correct_ledgers(self) -> None:
        """Recount what has a ledger that is not known yet, or differs from the records."""
        for pool in self._settings.pools:
            path = ledger_path(pool.provider, pool.name)
            await self._correct_ledger(path, f"pool {pool.key}")
        for tenant in self._settings.tenant_limits:
            await self._correct_ledger(tenant_ledger_path(tenant), f"tenant {tenant}")

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


def _is_in(node: Node, home: ProviderCluster) -> bool:
    """Whether a node's objects are, or may be, in that cluster."""
    if node.provider != home.provider:
        return False
    found = provider_cluster_of(node)
    return found is None or found.cluster == home.cluster


async def _blockers(cluster: Cluster, namespace: str) -> tuple[str, ...]:
    try:
        return tuple(await cluster.reader.namespace_blockers(namespace))
    except KubernetesError as error:
        return (describe(error),)
