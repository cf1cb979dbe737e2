"""The drivers of all providers, connected in the background while the daemon runs.

A backend that is unreachable or refuses the launcher delays only its own pools. The driver
of a provider that is no longer configured, or moved to another backend, stays open to delete
its nodes. ``launcher.provider_upkeep`` closes it when nothing is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Protocol

from nodepool_k8s.backoff import Backoff
from nodepool_k8s.config.settings import Provider
from nodepool_k8s.drivers.driver import Driver, DriverFactory, Observer, Spawn
from nodepool_k8s.errors import DriverError, describe
from nodepool_k8s.model import Node, ProviderCluster
from nodepool_k8s.znodes.nodes import provider_cluster_of
from nodepool_k8s.znodes.paths import provider_cluster_path

log = logging.getLogger(__name__)


class ProvidersObserver(Observer, Protocol):
    """Notified of events of all backends."""

    def driver_started(self, driver: Driver) -> None:
        """A driver has connected for the first time."""


class Providers:
    """The drivers of the providers that are configured, and of those that were.

    Itself the observer of every driver; passes on what it is told to its own observer, if any.
    """

    def __init__(self, factory: DriverFactory, spawn: Spawn) -> None:
        self._factory = factory
        self._spawn = spawn
        self._deployment = ""
        self._live: dict[str, Driver] = {}
        self._retired: list[Driver] = []
        self._starting: dict[Driver, asyncio.Task[None]] = {}
        self._observer: ProvidersObserver | None = None
        self._found: dict[tuple[str, str | None], str] = {}
        """By provider and context: the identity of the backend when we last connected."""
        self._refused: set[str] = set()
        """Backends that were reported as unusable."""
        self._troubles: dict[str, str] = {}

    def __contains__(self, provider: object) -> bool:
        return provider in self._live

    def __getitem__(self, provider: str) -> Driver:
        return self._live[provider]

    @property
    def open(self) -> list[Driver]:
        """The drivers in sync, including those of providers that are no longer configured."""
        return [driver for driver in (*self._live.values(), *self._retired) if _in_sync(driver)]

    @property
    def retired(self) -> list[Driver]:
        """The drivers that no configured provider uses."""
        return list(self._retired)

    def is_open(self, driver: Driver) -> bool:
        """Whether a driver is not closed."""
        return driver in self._retired or self._live.get(driver.provider.name) is driver

    # --- observers ----------------------------------------------------------------------------

    def observe(self, observer: ProvidersObserver | None) -> None:
        """Tell this one from now on, first of each driver that has started; None: none."""
        self._observer = observer
        for driver in (*self._live.values(), *self._retired):
            if observer is not None and driver not in self._starting:
                observer.driver_started(driver)

    def node_lost(self, node_id: str, external_id: str) -> None:
        """Pass it on."""
        if self._observer is not None:
            self._observer.node_lost(node_id, external_id)

    def health_changed(self, driver: Driver) -> None:
        """Pass it on."""
        if self._observer is not None:
            self._observer.health_changed(driver)

    # --- the configuration --------------------------------------------------------------------

    async def begin(self, deployment: str) -> None:
        """Serve that deployment; what was open for another one is closed."""
        if deployment != self._deployment:
            await self.close()
            self._deployment = deployment

    async def apply(self, providers: Iterable[Provider]) -> None:
        """Connect the drivers of new providers, and retire those no longer named."""
        wanted = {provider.name: provider for provider in providers}
        for name, driver in list(self._live.items()):
            if name not in wanted or not _is_same(driver.provider, wanted[name]):
                await self._retire(name)
        for name, provider in wanted.items():
            if name in self._live:
                self._live[name].serve(provider)
            else:
                self._live[name] = self._revived(provider) or self._connect(provider)

    async def _retire(self, name: str) -> None:
        driver = self._live.pop(name)
        if driver in self._starting:
            await self._close(driver)  # Nothing was created there.
        else:
            self._retired.append(driver)

    def _revived(self, provider: Provider) -> Driver | None:
        """The retired driver of a provider that is configured again."""
        for driver in self._retired:
            if driver not in self._starting and _is_same(driver.provider, provider):
                self._retired.remove(driver)
                driver.serve(provider)
                return driver
        return None

    # --- connecting -----------------------------------------------------------------------------

    def _connect(self, provider: Provider) -> Driver:
        driver = self._factory.create(provider, self._deployment)
        driver.observe(self)
        task = self._spawn(f"start provider {provider.name}", self._start(driver))
        self._starting[driver] = task
        return driver

    def trouble(self, provider: str) -> str:
        """Why the provider's driver has not connected; empty where that is unknown."""
        return self._troubles.get(provider, "")

    async def _start(self, driver: Driver) -> None:
        backoff = Backoff()
        while driver in self._starting:
            try:
                await driver.start(self._spawn)
            except DriverError as error:
                self._troubles[driver.provider.name] = describe(error)
                pause = backoff.failed()
                _log_refusal(driver.provider, error, backoff.failures)
                await asyncio.sleep(pause)
            else:
                del self._starting[driver]
                driver.serve(driver.provider)
                self._found[driver.provider.name, driver.provider.context] = driver.identity
                self._troubles.pop(driver.provider.name, None)
                log.info("Connected to the cluster of provider %s", driver.provider.name)
                if self._observer is not None:
                    self._observer.driver_started(driver)

    def connect_again(self, cluster: ProviderCluster) -> None:
        """Begin to connect to the backend of a provider that is no longer configured."""
        if any(_is_at(driver, cluster) for driver in (*self._live.values(), *self._retired)):
            return
        found = self._found.get((cluster.provider, cluster.context), cluster.cluster)
        if found == cluster.cluster:
            obstacle = self._factory.obstacle(cluster.context)
        else:
            obstacle = f"context {cluster.context or '(current)'} is another cluster now"
        if obstacle is None:
            provider = Provider(cluster.provider, cluster.context, pools=())
            self._retired.append(self._connect(provider))
        elif provider_cluster_path(cluster) not in self._refused:
            self._refused.add(provider_cluster_path(cluster))
            log.warning(
                "What is left of provider %s, which is no longer configured or was moved, cannot "
                "be removed: %s. Restore the context, or remove the records with "
                "'nodepool-k8s erase %s'",
                cluster.provider,
                obstacle,
                cluster.provider,
            )

    # --- which one ------------------------------------------------------------------------------

    def of(self, node: Node) -> Driver | None:
        """The driver of the backend with a node's objects; None where it is unusable."""
        cluster = provider_cluster_of(node)
        live = self._live.get(node.provider or "")
        if live is not None and (cluster is None or _is_at(live, cluster)):
            return live if _in_sync(live) else None
        for driver in self.open:
            if _has(driver, node, cluster):
                return driver
        return None

    def reach(self, node: Node) -> Driver:
        """The driver of the backend with a node's objects. Raises DriverError if unusable."""
        driver = self.of(node)
        if driver is None:
            raise DriverError(f"provider {node.provider} has no cluster that can be used")
        return driver

    # --- the end --------------------------------------------------------------------------------

    async def dismiss(self, driver: Driver) -> None:
        """Close a retired driver whose backend has nothing left."""
        self._retired.remove(driver)
        await self._close(driver)

    async def close(self) -> None:
        """Close every connection."""
        drivers = (*self._live.values(), *self._retired)
        self._live.clear()
        self._retired.clear()
        for driver in drivers:
            await self._close(driver)

    async def _close(self, driver: Driver) -> None:
        starting = self._starting.pop(driver, None)
        if starting is not None:
            starting.cancel()
            await asyncio.wait({starting})
        await driver.close()


def _in_sync(driver: Driver) -> bool:
    return driver.health.in_sync


def _is_same(old: Provider, new: Provider) -> bool:
    """Whether both reach the same backend in the same way."""
    return (old.name, old.context, old.access_role) == (new.name, new.context, new.access_role)


def _is_at(driver: Driver, cluster: ProviderCluster) -> bool:
    """Whether a provider's driver is connected to the backend where it created nodes.

    The context is enough: a backend that was installed again has lost the nodes, which the
    driver then finds out.
    """
    if driver.provider.name != cluster.provider:
        return False
    return driver.provider.context == cluster.context or driver.identity == cluster.cluster


def _has(driver: Driver, node: Node, cluster: ProviderCluster | None) -> bool:
    # By identity, as names may have changed; old records have none.
    if cluster is None:
        return driver.provider.name == node.provider
    return driver.identity == cluster.cluster


def _log_refusal(provider: Provider, error: DriverError, failures: int) -> None:
    # At failures 1, 2, 4, 8 and so on, to keep the log short.
    if failures & (failures - 1) == 0:
        log.error("Provider %s cannot be used, trying again: %s", provider.name, error)
