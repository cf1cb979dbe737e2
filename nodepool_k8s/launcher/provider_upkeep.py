"""Regular passes over each provider's backend: leaks, stuck deletions, removed providers.

They run when a driver has connected and then every minute. A provider that is no longer
configured is looked after until its backend has nothing left of it.
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
from nodepool_k8s.drivers.outcomes import UNKNOWN_BLOCKERS, Owned
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
"""The deletion grace, in seconds, of leaked objects."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """A deletion that does not end, and what blocks it."""

    provider: str
    external_id: str
    since: float
    """When its deletion was accepted, in seconds since the epoch."""
    blockers: tuple[str, ...]
    """In the backend's words; empty where it reports nothing."""


class ProviderUpkeep:
    """The passes over all backends, and the state kept between them."""

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
        """By ``Owned.uid``: the age at which a stuck deletion is reported again."""
        self._stuck: dict[Driver, tuple[Stuck, ...]] = {}

    @property
    def stuck(self) -> tuple[Stuck, ...]:
        """Deletions that had taken too long at the last pass."""
        return tuple(entry for entries in self._stuck.values() for entry in entries)

    def reconfigure(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings

    async def run_for(self, driver: Driver) -> None:
        """Run a pass over a backend now and every minute while its driver is open."""
        try:
            while self._providers.is_open(driver):
                await self.step_for(driver)
                await asyncio.sleep(self._intervals.upkeep)
        finally:
            self._stuck.pop(driver, None)
            self._report_at.pop(driver, None)

    async def step_for(self, driver: Driver) -> None:
        """Run one pass over a backend."""
        cluster = _cluster_of(driver)
        if self._is_served_here(cluster):
            await self._known.remember(cluster)
        try:
            # Listed before the records are read: a record is written before its objects exist.
            owned = await driver.list_owned()
            await self._delete_leaked(driver, owned)
            await self._report_stuck(driver, owned, time.time())
        except DriverError as error:
            log.warning("Provider %s: checking for leaks failed: %s", cluster.provider, error)
        else:
            await self._leave_if_empty(driver, owned)

    # --- leaks ----------------------------------------------------------------------------------

    async def _delete_leaked(self, driver: Driver, owned: Iterable[Owned]) -> None:
        """Delete objects of this deployment that no node record names."""
        for each in owned:
            node = self._mirror.nodes.get(each.node_id)
            if upkeep.is_suspect(each, node) and await self._is_leaked(each):
                log.warning("Deleting leaked %s: no node record names it", each.external_id)
                await driver.delete_owned(each.external_id, LEAK_GRACE)
                telemetry.leak_deleted(driver.provider.name)

    async def _is_leaked(self, owned: Owned) -> bool:
        """Ask ZooKeeper, after the backend was listed: records are written first."""
        try:
            node = await self._store.read_node(owned.node_id)
        except MalformedRecord:
            return False
        return upkeep.is_suspect(owned, node)

    # --- stuck deletions --------------------------------------------------------------------

    async def _report_stuck(self, driver: Driver, owned: Iterable[Owned], now: float) -> None:
        """Log what blocks deletions that do not end, each again at twice the age."""
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

    # --- providers that are no longer configured ----------------------------------------------

    async def connect_again(self) -> None:
        """Connect to backends that still have objects of providers that no launcher serves."""
        of_nodes = {provider_cluster_of(node) for node in self._mirror.nodes.values()}
        for cluster in {*await self._known.all(), *of_nodes} - {None}:
            assert cluster is not None
            if self._is_replaced(cluster):
                await self._known.forget(cluster)
            elif not self._is_served(cluster):
                self._providers.connect_again(cluster)

    def has_moved(self, node: Node) -> bool:
        """Whether this launcher serves the node's provider at another backend now."""
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
        """Whether the context of an unserved backend reaches another one now."""
        if cluster.provider not in self._providers:
            return False
        driver = self._providers[cluster.provider]
        is_other = driver.identity not in ("", cluster.cluster)
        return driver.provider.context == cluster.context and is_other

    async def _leave_if_empty(self, driver: Driver, owned: Iterable[Owned]) -> None:
        """Close a retired driver whose backend has nothing left of its provider."""
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
        "Deletion of %s at provider %s has not ended after %.0f s: %s",
        stuck.external_id,
        stuck.provider,
        age,
        "; ".join(stuck.blockers) or UNKNOWN_BLOCKERS,
    )
