"""Who of all launchers does what only one of them should: he who is first in line at a lock.

The line is Nodepool's own (kazoo's ``Election``), so that in a mixed fleet, too, one does
it alone. Being in line costs one read a look, and ends with the ZooKeeper session.
"""

from __future__ import annotations

import uuid

from nodepool_k8s.errors import ConnectionLost, SessionLost
from nodepool_k8s.znodes import paths
from nodepool_k8s.zookeeper.client import ZooKeeperClient

STATS = f"{paths.NODEPOOL}/elections/stats"
"""Who sends the gauges about ZooKeeper's records to statsd."""


class Election:
    """One contender in one line."""

    def __init__(self, client: ZooKeeperClient, path: str, identity: str) -> None:
        self._client = client
        self._path = path
        self._identity = identity
        self._prefix = f"{uuid.uuid4().hex}{paths.LOCK_INFIX}"

    async def won(self) -> bool:
        """Whether we are first in line; the first call queues us up. Raises SessionLost."""
        names = await self._line()
        if not any(name.startswith(self._prefix) for name in names):
            await self._enter()
            names = await self._line()
        first = min(names, key=_number, default="")
        return first.startswith(self._prefix)

    async def _line(self) -> list[str]:
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
            # It may be there: its name begins as we said, so the next look finds it.
            return


def _number(name: str) -> str:
    return name.rpartition(paths.LOCK_INFIX)[2]
