"""The clusters: connected to in the background, for as long as the daemon lives.

A cluster that cannot be reached, or refuses us, delays nobody but its own pools. The
cluster of a provider that was taken out, or moved to another one, stays open: its nodes
are to be removed from it. ``launcher.upkeep`` says when nothing is left there.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial

from nodepool_k8s.backoff import Backoff
from nodepool_k8s.config import kubeconfig
from nodepool_k8s.config.settings import Provider
from nodepool_k8s.errors import ConfigError, KubernetesError, describe
from nodepool_k8s.kubernetes.cluster import Cluster
from nodepool_k8s.kubernetes.reflector import Subscription
from nodepool_k8s.launcher.tasks import Tasks
from nodepool_k8s.model import Node, ProviderCluster
from nodepool_k8s.znodes.nodes import provider_cluster_of
from nodepool_k8s.znodes.paths import provider_cluster_path

log = logging.getLogger(__name__)

OnStarted = Callable[[Cluster], None]


class Clusters:
    """The clusters of the providers that are configured, and of those that were."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._deployment = ""
        self._live: dict[str, Cluster] = {}
        self._retired: list[Cluster] = []
        self._starting: dict[Cluster, asyncio.Task[None]] = {}
        self._on_started: OnStarted | None = None
        self._found: dict[tuple[str, str | None], str] = {}
        """By provider and context: which cluster that was when we last connected."""
        self._refused: set[str] = set()
        """Contexts of which was said that they cannot be used."""
        self._troubles: dict[str, str] = {}
        self.on_lost: Callable[[str], None] | None = None
        """Whom to tell the name of a namespace that was lost, or that lost a pod."""
        self.on_touch: Callable[[Cluster], None] | None = None
        """Whom to tell that a cluster is in touch again, or no longer."""

    def __contains__(self, provider: object) -> bool:
        return provider in self._live

    def __getitem__(self, provider: str) -> Cluster:
        return self._live[provider]

    @property
    def open(self) -> list[Cluster]:
        """Those that can be used now, of providers that are configured and of others."""
        return [each for each in (*self._live.values(), *self._retired) if each.in_sync]

    @property
    def retired(self) -> list[Cluster]:
        """Those that no provider of the configuration uses any more."""
        return list(self._retired)

    def is_open(self, cluster: Cluster) -> bool:
        """Whether it was not closed since."""
        return cluster in self._retired or self._live.get(cluster.provider.name) is cluster

    def listen(self, on_started: OnStarted | None) -> None:
        """Tell of each cluster that has started, now and from now on; None: nobody."""
        self._on_started = on_started
        for cluster in (*self._live.values(), *self._retired):
            if on_started is not None and cluster not in self._starting:
                on_started(cluster)

    # --- the configuration ------------------------------------------------------------------

    async def begin(self, deployment: str) -> None:
        """Be about that deployment's objects; what was open for another one is closed."""
        if deployment != self._deployment:
            await self.close()
            self._deployment = deployment

    async def apply(self, providers: Iterable[Provider]) -> None:
        """Connect to the clusters of new providers, and retire those no longer named."""
        wanted = {provider.name: provider for provider in providers}
        for name, cluster in list(self._live.items()):
            if name not in wanted or not _is_same(cluster.provider, wanted[name]):
                await self._retire(name)
        for name, provider in wanted.items():
            if name in self._live:
                self._live[name].serve(provider)
            else:
                self._live[name] = self._revived(provider) or self._connect(provider)

    async def _retire(self, name: str) -> None:
        cluster = self._live.pop(name)
        if cluster in self._starting:
            await self._close(cluster)  # We never had anything there.
        else:
            self._retired.append(cluster)

    def _revived(self, provider: Provider) -> Cluster | None:
        """The provider is back before its cluster was closed."""
        for cluster in self._retired:
            if cluster not in self._starting and _is_same(cluster.provider, provider):
                self._retired.remove(cluster)
                cluster.serve(provider)
                return cluster
        return None

    # --- connecting ---------------------------------------------------------------------------

    def _connect(self, provider: Provider) -> Cluster:
        cluster = Cluster(provider, self._deployment)
        touched = partial(self._touched, cluster)
        cluster.subscribe(Subscription(self._lost, _ignore, self._lost, touched))
        task = self._tasks.spawn(f"start provider {provider.name}", self._start(cluster))
        self._starting[cluster] = task
        return cluster

    def _lost(self, namespace: str) -> None:
        if self.on_lost is not None:
            self.on_lost(namespace)

    def _touched(self, cluster: Cluster) -> None:
        if self.on_touch is not None:
            self.on_touch(cluster)

    def trouble(self, provider: str) -> str:
        """Why the provider's cluster could not be connected to yet; empty where nobody knows."""
        return self._troubles.get(provider, "")

    async def _start(self, cluster: Cluster) -> None:
        backoff = Backoff()
        while cluster in self._starting:
            try:
                await cluster.start(self._tasks.spawn)
            except KubernetesError as error:
                self._troubles[cluster.provider.name] = describe(error)
                pause = backoff.failed()
                _log_refusal(cluster.provider, error, backoff.failures)
                await asyncio.sleep(pause)
            else:
                del self._starting[cluster]
                cluster.serve(cluster.provider)
                self._found[cluster.provider.name, cluster.provider.context] = cluster.uid
                self._troubles.pop(cluster.provider.name, None)
                log.info("Connected to the cluster of provider %s", cluster.provider.name)
                if self._on_started is not None:
                    self._on_started(cluster)

    def connect_again(self, home: ProviderCluster) -> None:
        """Begin to connect to the cluster of a provider that is configured no more."""
        if any(_is_at(cluster, home) for cluster in (*self._live.values(), *self._retired)):
            return
        found = self._found.get((home.provider, home.context), home.cluster)
        if found == home.cluster:
            obstacle = _obstacle(home)
        else:
            obstacle = f"context {home.context or '(current)'} is another cluster now"
        if obstacle is None:
            provider = Provider(home.provider, home.context, pools=())
            self._retired.append(self._connect(provider))
        elif provider_cluster_path(home) not in self._refused:
            self._refused.add(provider_cluster_path(home))
            log.warning(
                "What is left of provider %s, which was taken out of the configuration or moved, "
                "cannot be removed: %s. Bring the context back, or give the records up with "
                "'nodepool-k8s erase %s'",
                home.provider,
                obstacle,
                home.provider,
            )

    # --- which one ------------------------------------------------------------------------------

    def of(self, node: Node) -> Cluster | None:
        """The cluster that a node's objects are in; None where it cannot be used (yet)."""
        home = provider_cluster_of(node)
        live = self._live.get(node.provider or "")
        if live is not None and (home is None or _is_at(live, home)):
            return live if live.in_sync else None
        for cluster in (*self._live.values(), *self._retired):
            if cluster.in_sync and _is_where(cluster, node, home):
                return cluster
        return None

    def reach(self, node: Node) -> Cluster:
        """The cluster that a node's objects are in. Raises KubernetesError: not now."""
        cluster = self.of(node)
        if cluster is None:
            raise KubernetesError(f"provider {node.provider} has no cluster that can be used")
        return cluster

    # --- the end --------------------------------------------------------------------------------

    async def dismiss(self, cluster: Cluster) -> None:
        """Close one that is retired: nothing of ours is left there."""
        self._retired.remove(cluster)
        await self._close(cluster)

    async def close(self) -> None:
        """Close every connection."""
        clusters = (*self._live.values(), *self._retired)
        self._live.clear()
        self._retired.clear()
        for cluster in clusters:
            await self._close(cluster)

    async def _close(self, cluster: Cluster) -> None:
        starting = self._starting.pop(cluster, None)
        if starting is not None:
            starting.cancel()
            await asyncio.wait({starting})
        await cluster.close()


def _is_same(old: Provider, new: Provider) -> bool:
    """Whether both reach the same cluster in the same way."""
    return (old.name, old.context, old.access_role) == (new.name, new.context, new.access_role)


def _is_at(cluster: Cluster, home: ProviderCluster) -> bool:
    """Whether a provider's cluster is the one where it made nodes.

    By its name, too: a cluster that was built anew has lost them, which is to be found out.
    """
    if cluster.provider.name != home.provider:
        return False
    return cluster.provider.context == home.context or cluster.uid == home.cluster


def _is_where(cluster: Cluster, node: Node, home: ProviderCluster | None) -> bool:
    # Whatever another provider, or kube/config, calls it; an old record does not say.
    return cluster.provider.name == node.provider if home is None else cluster.uid == home.cluster


def _obstacle(home: ProviderCluster) -> str | None:
    """Why a context cannot be connected to any more, as far as kube/config tells."""
    if home.context is None:
        return None
    try:
        known = kubeconfig.contexts(os.environ)
    except ConfigError as error:
        return str(error)
    if known is None:
        return f"there is no kube/config with context {home.context}"
    return None if home.context in known else f"kube/config has no context {home.context} any more"


def _ignore(_namespace: str) -> None:
    """A namespace that appears is nobody's news."""


def _log_refusal(provider: Provider, error: KubernetesError, failures: int) -> None:
    # Ever more seldom: often enough to be found, and the log does not fill.
    if failures & (failures - 1) == 0:
        log.error("Provider %s cannot be used, trying again: %s", provider.name, error)
