"""The providers' clusters: connected to in the background, for as long as the daemon lives.

A cluster that cannot be reached, or refuses us, delays nobody but its own pools.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator

from nodepool_k8s import backoff
from nodepool_k8s.config.settings import Provider
from nodepool_k8s.errors import KubernetesError, describe
from nodepool_k8s.kubernetes.cluster import Cluster
from nodepool_k8s.kubernetes.watching import Subscription
from nodepool_k8s.launcher.tasks import Tasks

log = logging.getLogger(__name__)


class Clusters:
    """The clusters by the name of their provider."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._clusters: dict[str, Cluster] = {}
        self._started: dict[str, asyncio.Event] = {}
        self._troubles: dict[str, str] = {}
        self.on_lost: Callable[[str], None] | None = None
        """Whom to tell the name of a namespace that was lost, or that lost a pod."""

    def __contains__(self, provider: object) -> bool:
        return provider in self._clusters

    def __getitem__(self, provider: str) -> Cluster:
        return self._clusters[provider]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clusters)

    def add(self, providers: Iterable[Provider], deployment: str) -> None:
        """Begin to connect to the clusters of providers that are not there yet."""
        for provider in providers:
            if provider.name not in self._clusters:
                cluster = self._clusters[provider.name] = Cluster(provider, deployment)
                cluster.subscribe(Subscription(self._lost, _ignore, self._lost))
                started = self._started[provider.name] = asyncio.Event()
                self._tasks.spawn(f"start provider {provider.name}", self._start(cluster, started))

    def _lost(self, namespace: str) -> None:
        if self.on_lost is not None:
            self.on_lost(namespace)

    async def ready(self, provider: str) -> Cluster:
        """Wait until the provider's cluster can be used, and its objects are known."""
        await self._started[provider].wait()
        cluster = self._clusters[provider]
        await cluster.synced()
        return cluster

    def trouble(self, provider: str) -> str:
        """Why the provider's cluster could not be connected to yet; empty where nobody knows."""
        return self._troubles.get(provider, "")

    async def close(self) -> None:
        """Close every connection."""
        for cluster in self._clusters.values():
            await cluster.close()

    async def _start(self, cluster: Cluster, started: asyncio.Event) -> None:
        failures = 0
        while not started.is_set():
            try:
                await cluster.start(self._tasks.spawn)
            except KubernetesError as error:
                failures += 1
                self._troubles[cluster.provider.name] = describe(error)
                _log_refusal(cluster.provider, error, failures)
                await asyncio.sleep(backoff.delay(failures, random.random()))
            else:
                log.info("Connected to the cluster of provider %s", cluster.provider.name)
                self._troubles.pop(cluster.provider.name, None)
                started.set()


def _ignore(_namespace: str) -> None:
    """A namespace that appears is nobody's news."""


def _log_refusal(provider: Provider, error: KubernetesError, failures: int) -> None:
    # Ever more seldom: often enough to be found, and the log does not fill.
    if failures & (failures - 1) == 0:
        log.error("Provider %s cannot be used, trying again: %s", provider.name, error)
