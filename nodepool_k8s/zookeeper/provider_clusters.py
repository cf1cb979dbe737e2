"""The clusters in which each provider has or had nodes, kept in ZooKeeper.

A provider that is removed from the configuration may leave namespaces behind that no
node's record names. From these records the next launcher knows where to look for them.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from nodepool_k8s.errors import Conflict, MalformedRecord, Vanished
from nodepool_k8s.model import ProviderCluster
from nodepool_k8s.znodes import paths
from nodepool_k8s.znodes.paths import provider_cluster_path
from nodepool_k8s.znodes.provider_clusters import encode_provider_cluster, parse_provider_cluster
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.operations import Create, Delete, SetData

log = logging.getLogger(__name__)


class ProviderClusters:
    """The records of all launchers."""

    def __init__(self, client: ZooKeeperClient) -> None:
        self._client = client
        self._reported: set[str] = set()

    async def all(self) -> list[ProviderCluster]:
        """Every cluster in which a provider has or had nodes. Raises SessionLost."""
        try:
            names = await self._client.children(paths.PROVIDER_CLUSTERS)
        except Vanished:
            return []
        clusters = [await self._read(name) for name in sorted(names)]
        return [cluster for cluster in clusters if cluster is not None]

    async def _read(self, name: str) -> ProviderCluster | None:
        path = f"{paths.PROVIDER_CLUSTERS}/{name}"
        try:
            data, _ = await self._client.get(path)
            return parse_provider_cluster(name, data)
        except Vanished:
            return None
        except MalformedRecord as error:
            if name not in self._reported:
                self._reported.add(name)
                log.warning("Skipping unreadable record %s: %s", path, error)
            return None

    async def remember(self, cluster: ProviderCluster) -> None:
        """Record that the provider has nodes in that cluster. Raises SessionLost."""
        path, data = provider_cluster_path(cluster), encode_provider_cluster(cluster)
        try:
            known, stat = await self._client.get(path)
        except Vanished:
            await self._client.ensure_path(paths.PROVIDER_CLUSTERS)
            change: Create | SetData = Create(path, data)
        else:
            if known == data:
                return
            change = SetData(path, data, stat.version)
        with suppress(Conflict):  # Another launcher has just done the same.
            await self._client.transaction([change])

    async def forget(self, cluster: ProviderCluster) -> None:
        """Remove the record: nothing of the provider is left there. Raises SessionLost."""
        with suppress(Conflict):
            await self._client.transaction([Delete(provider_cluster_path(cluster))])

    async def forget_all(self, provider: str) -> None:
        """Remove all records of the provider. Raises SessionLost."""
        for cluster in await self.all():
            if cluster.provider == provider:
                await self.forget(cluster)
