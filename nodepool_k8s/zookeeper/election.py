"""Elects the one launcher that does what only one of them should do: the first lock contender.

The contenders are Nodepool's own (kazoo's ``Election``), so a mixed fleet elects one launcher,
too. Each check costs one read; the candidacy ends with the ZooKeeper session.
"""

from __future__ import annotations

import uuid

from nodepool_k8s.errors import ConnectionLost, SessionLost
from nodepool_k8s.znodes import paths
from nodepool_k8s.zookeeper.client import ZooKeeperClient

STATS = f"{paths.NODEPOOL}/elections/stats"
"""The election of the launcher that sends the gauges of ZooKeeper's records to statsd."""


class Election:
    """One contender in one election."""

    def __init__(self, client: ZooKeeperClient, path: str, identity: str) -> None:
        self._client = client
        self._path = path
        self._identity = identity
        self._prefix = f"{uuid.uuid4().hex}{paths.LOCK_INFIX}"

    async def won(self) -> bool:
        """Whether this launcher is elected; the first call enters it. Raises SessionLost."""
        names = await self._contenders()
        if not any(name.startswith(self._prefix) for name in names):
            await self._enter()
            names = await self._contenders()
        first = min(names, key=_number, default="")
        return first.startswith(self._prefix)

    async def _contenders(self) -> list[str]:
        await self._client.ensure_path(self._path)
        return [
            name for name in await self._client.children(self._path) if paths.LOCK_INFIX in name
        ]

    async def _enter(self) -> None:
        path, data = f"{self._path}/{self._prefix}", self._identity.encode()
        try:
            await self._client.create_sequence(path, data, ephemeral=True)
        except SessionLost:
            raise
        except ConnectionLost:
            # It may exist: the next check finds it by the prefix of its name.
            return


def _number(name: str) -> str:
    return name.rpartition(paths.LOCK_INFIX)[2]
