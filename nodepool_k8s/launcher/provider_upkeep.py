"""Regular passes over each provider's backend: what leaked there, what does not go, what is left.

They run when a driver has connected and then every minute. Providers that were taken out of
the configuration are looked after until nothing of theirs is left.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from nodepool_k8s import telemetry
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.drivers.driver import Driver
from nodepool_k8s.drivers.outcomes import Owned
from nodepool_k8s.errors import DriverError, MalformedRecord
from nodepool_k8s.launcher.intervals import Intervals
from nodepool_k8s.launcher.providers import Providers
from nodepool_k8s.model import Node, ProviderCluster
from nodepool_k8s.policy import upkeep
from nodepool_k8s.znodes.nodes import provider_cluster_of
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.provider_clusters import ProviderClusters
from nodepool_k8s.zookeeper.store import Store

log = logging.getLogger(__name__)

LEAK_GRACE = 1.0
"""Seconds that what leaked gets to end."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """Something of ours whose deletion does not end, and what holds it."""

    provider: str
    external_id: str
    since: float
    """When its deletion was accepted, in seconds since the epoch."""
    blockers: tuple[str, ...]
    """In the backend's words; empty where it says nothing."""


class ProviderUpkeep:
    """The passes over all backends, and what is remembered between two of them."""

    def __init__(
        self,
        settings: Settings,
        providers: Providers,
        store: Store,
        mirror: Mirror,
        known: ProviderClusters,
        intervals: Intervals,
    ) -> None:
        self._settings = settings
        self._providers = providers
        self._store = store
        self._mirror = mirror
        self._known = known
        self._intervals = intervals
        self._report_at: dict[Driver, dict[str, float]] = {}
        """By UID: the age at which a stuck deletion is reported again."""
        self._stuck: dict[Driver, tuple[Stuck, ...]] = {}

    @property
    def stuck(self) -> tuple[Stuck, ...]:
        """Deletions that had taken too long at the last pass."""
        return tuple(entry for entries in self._stuck.values() for entry in entries)

    def reconfigure(self, settings: Settings) -> None:
        """Look after these settings' providers from now on."""
        self._settings = settings

    async def run_for(self, driver: Driver) -> None:
        """A pass over a backend now, and one every minute, for as long as it is open."""
        try:
            while self._providers.is_open(driver):
                await self.step_for(driver)
                await asyncio.sleep(self._intervals.upkeep)
        finally:
            self._stuck.pop(driver, None)
            self._report_at.pop(driver, None)

    async def step_for(self, driver: Driver) -> None:
        """One pass over a backend."""
        cluster = _cluster_of(driver)
        if self._is_served_here(cluster):
            await self._known.remember(cluster)
        try:
            # Before the records are read: each was written before what it names was created.
            owned = await driver.list_owned()
            await self._delete_leaked(driver, owned)
            await self._report_stuck(driver, owned, time.time())
        except DriverError as error:
            log.warning("Provider %s: leaks cannot be looked for: %s", cluster.provider, error)
        else:
            await self._leave_if_empty(driver, owned)

    # --- leaks ----------------------------------------------------------------------------------

    async def _delete_leaked(self, driver: Driver, owned: Iterable[Owned]) -> None:
        """Delete what belongs to our deployment and is named by no node's record."""
        for each in owned:
            node = self._mirror.nodes.get(each.node_id)
            if upkeep.is_suspect(each, node) and await self._is_leaked(each):
                log.warning(
                    "Deleting leaked namespace %s: no node's record names it", each.external_id
                )
                await driver.delete_owned(each.external_id, LEAK_GRACE)
                telemetry.leak_deleted(driver.provider.name)

    async def _is_leaked(self, owned: Owned) -> bool:
        """Ask ZooKeeper itself, after the backend was asked: records come first."""
        try:
            node = await self._store.read_node(owned.node_id)
        except MalformedRecord:
            return False
        return upkeep.is_suspect(owned, node)

    # --- what does not go -------------------------------------------------------------------

    async def _report_stuck(self, driver: Driver, owned: Iterable[Owned], now: float) -> None:
        """Say what holds deletions that do not end, each again at twice the age."""
        found, before = [], self._report_at.get(driver, {})
        report_at: dict[str, float] = {}
        for each in owned:
            age = upkeep.stuck_for(each, now)
            if age is None or age < self._intervals.stuck:
                continue
            blockers = await driver.blockers(each.external_id)
            found.append(Stuck(driver.provider.name, each.external_id, now - age, blockers))
            report_at[each.uid] = before.get(each.uid, 0.0)
            if age >= report_at[each.uid]:
                report_at[each.uid] = upkeep.next_report(age, self._intervals.stuck)
                _log_stuck(found[-1], age)
        self._stuck[driver], self._report_at[driver] = tuple(found), report_at

    # --- providers that were taken out --------------------------------------------------------

    async def connect_again(self) -> None:
        """Connect to backends where a provider that no launcher serves has something left."""
        of_nodes = {provider_cluster_of(node) for node in self._mirror.nodes.values()}
        for cluster in {*await self._known.all(), *of_nodes} - {None}:
            assert cluster is not None
            if self._is_replaced(cluster):
                await self._known.forget(cluster)
            elif not self._is_served(cluster):
                self._providers.connect_again(cluster)

    def has_moved(self, node: Node) -> bool:
        """Whether a node's provider is served here, with another backend than the node's."""
        cluster = provider_cluster_of(node)
        if cluster is None or cluster.provider not in self._providers:
            return False
        return self._providers[cluster.provider].identity not in ("", cluster.cluster)

    def _is_served(self, cluster: ProviderCluster) -> bool:
        return self._is_served_here(cluster) or upkeep.is_served_elsewhere(
            cluster.provider, self._settings.providers, self._mirror.components.values()
        )

    def _is_served_here(self, cluster: ProviderCluster) -> bool:
        if cluster.provider not in self._providers:
            return False
        driver = self._providers[cluster.provider]
        if driver.identity:
            return driver.identity == cluster.cluster
        return driver.provider.context == cluster.context

    def _is_replaced(self, cluster: ProviderCluster) -> bool:
        """Whether another cluster is reached now under the context of one that was left."""
        if cluster.provider not in self._providers:
            return False
        driver = self._providers[cluster.provider]
        is_other = driver.identity not in ("", cluster.cluster)
        return driver.provider.context == cluster.context and is_other

    async def _leave_if_empty(self, driver: Driver, owned: Iterable[Owned]) -> None:
        """Close a driver that no provider uses any more, where nothing is left."""
        cluster = _cluster_of(driver)
        if driver not in self._providers.retired:
            return
        if any(_may_be_at(node, cluster) for node in self._mirror.nodes.values()):
            return
        if any(each.is_of_provider for each in owned):
            return
        if not self._is_served(cluster):
            await self._known.forget(cluster)
        log.info("Nothing is left of provider %s in context %s", cluster.provider, cluster.context)
        await self._providers.dismiss(driver)


def _cluster_of(driver: Driver) -> ProviderCluster:
    return ProviderCluster(driver.provider.name, driver.provider.context, driver.identity)


def _may_be_at(node: Node, cluster: ProviderCluster) -> bool:
    """Whether a node's objects are, or may be, at that backend."""
    if node.provider != cluster.provider:
        return False
    found = provider_cluster_of(node)
    return found is None or found.cluster == cluster.cluster


def _log_stuck(stuck: Stuck, age: float) -> None:
    log.warning(
        "Namespace %s of provider %s has been Terminating for %.0f s: %s",
        stuck.external_id,
        stuck.provider,
        age,
        "; ".join(stuck.blockers) or "Kubernetes does not say what holds it",
    )
