"""Reads nodes, requests and pools from ZooKeeper, without a mirror."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from nodepool_k8s.errors import MalformedRecord, Vanished
from nodepool_k8s.model import EMPTY, Component, Node, NodeRequest, Resources
from nodepool_k8s.znodes import paths
from nodepool_k8s.znodes.components import parse_component
from nodepool_k8s.znodes.ledgers import parse_ledger
from nodepool_k8s.znodes.nodes import parse_node
from nodepool_k8s.znodes.paths import (
    ledger_path,
    node_lock_path,
    node_path,
    pool_of_ledger,
    request_path,
)
from nodepool_k8s.znodes.requests import parse_request
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper_settings import ZooKeeperSettings

if TYPE_CHECKING:
    from nodepool_k8s import presentation
    from nodepool_k8s.config.settings import TopLabel

log = logging.getLogger(__name__)


@asynccontextmanager
async def connection(settings: ZooKeeperSettings) -> AsyncIterator[ZooKeeperClient]:
    """A connection to ZooKeeper for the duration of the block. Raises ConnectionLost."""
    client = ZooKeeperClient(settings)
    try:
        await client.start()
        yield client
    finally:
        await client.close()


T = TypeVar("T")


class Viewer:
    """Reads records from the ZooKeeper server, each time that it is asked."""

    def __init__(self, client: ZooKeeperClient) -> None:
        self.client = client

    async def read(self, request_id: str) -> NodeRequest:
        """The current record of a request. Raises Vanished, MalformedRecord."""
        data, stat = await self.client.get(request_path(request_id))
        return parse_request(request_id, data, stat.version)

    async def read_node(self, node_id: str) -> Node:
        """The current record of a node. Raises Vanished, MalformedRecord."""
        data, stat = await self.client.get(node_path(node_id))
        return parse_node(node_id, data, stat.version)

    async def requests(self) -> list[NodeRequest]:
        """All readable requests, in the order in which they are served."""
        found = await self._read_all(paths.REQUESTS, self.read)
        return sorted(found, key=lambda entry: (entry.priority, entry.relative_priority, entry.id))

    async def nodes(self, provider: str | None = None) -> list[tuple[Node, bool]]:
        """All readable nodes (of the provider), sorted by id, and whether they are locked."""

        async def read(node_id: str) -> tuple[Node, bool]:
            return await self.read_node(node_id), bool(await self.contenders(node_id))

        found = await self._read_all(paths.NODES, read)
        wanted = [entry for entry in found if provider is None or entry[0].provider == provider]
        return sorted(wanted, key=lambda entry: entry[0].id)

    async def contenders(self, node_id: str) -> list[str]:
        """The names of the children of a node's lock; empty if it is unlocked."""
        try:
            return await self.client.children(node_lock_path(node_id))
        except Vanished:
            return []

    async def components(
        self, provider: str | None = None
    ) -> list[tuple[Component, Mapping[str, Any]]]:
        """The registered pools (of the provider), sorted by id, and their complete records."""

        async def read(name: str) -> tuple[Component, Mapping[str, Any]]:
            data, _ = await self.client.get(f"{paths.POOL_COMPONENTS}/{name}")
            return parse_component(name, data), json.loads(data)

        found = await self._read_all(paths.POOL_COMPONENTS, read)
        wanted = [
            entry for entry in found if provider is None or entry[0].provider_name == provider
        ]
        return sorted(wanted, key=lambda entry: entry[0].id)

    async def labels(self, configured: Mapping[str, TopLabel] = EMPTY) -> list[presentation.Row]:
        """The labels that registered pools serve, as ``presentation.label_rows`` shows them."""
        from nodepool_k8s import presentation

        components = [component for component, _ in await self.components()]
        nodes = await self._read_all(paths.NODES, self.read_node)
        return presentation.label_rows(components, nodes, configured)

    async def ledgers(self, provider: str) -> dict[str, Resources]:
        """The quota usage of each of the provider's pools, by pool name."""
        root = ledger_path(provider, "").rstrip("/")

        async def read(name: str) -> tuple[str, Resources]:
            path = f"{root}/{name}"
            data, _ = await self.client.get(path)
            found = pool_of_ledger(path)
            return found[1] if found else name, parse_ledger(data)

        return dict(sorted(await self._read_all(root, read)))

    async def _read_all(self, root: str, read: Callable[[str], Awaitable[T]]) -> list[T]:
        """Read all children concurrently; skip those that are gone or cannot be read."""
        try:
            names = await self.client.children(root)
        except Vanished:
            return []
        results = await asyncio.gather(*(read(name) for name in names), return_exceptions=True)
        found: list[T] = []
        for name, result in zip(names, results, strict=True):
            if isinstance(result, MalformedRecord):
                log.warning("Skipping unreadable record %s/%s: %s", root, name, result)
            elif isinstance(result, Vanished):
                continue
            elif isinstance(result, BaseException):
                raise result
            else:
                found.append(result)
        return found
