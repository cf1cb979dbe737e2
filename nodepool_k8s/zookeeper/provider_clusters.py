"""In which clusters each provider has nodes, or had: kept in ZooKeeper.

A provider that is taken out of the configuration may leave namespaces behind that no
node's record names. Only this tells the next launcher where to look for them.
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
    """The clusters that are remembered, of all launchers together."""

    def __init__(self, client: ZooKeeperClient) -> None:
        self._client = client
        self._reported: set[str] = set()

    async def all(self) -> list[ProviderCluster]:
        """Every cluster that a provider has, or had, nodes in. Raises SessionLost."""
        try:
            names = await self._client.children(paths.PROVIDER_CLUSTERS)
        except Vanished:
            return []
        homes = [await self._read(name) for name in sorted(names)]
        return [home for home in homes if home is not None]

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
                log.warning("Passed over %s: %s", path, error)
            return None

    async def remember(self, home: ProviderCluster) -> None:
        """Keep that the provider has nodes in that cluster. Raises SessionLost."""
        path, data = provider_cluster_path(home), encode_provider_cluster(home)
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

    async def forget(self, home: ProviderCluster) -> None:
        """Nothing of the provider is left in that cluster. Raises SessionLost."""
        with suppress(Conflict):
            await self._client.transaction([Delete(provider_cluster_path(home))])

    async def forget_all(self, provider: str) -> None:
        """Whatever is left of the provider is nobody's to look for. Raises SessionLost."""
        for home in await self.all():
            if home.provider == provider:
                await self.forget(home)
