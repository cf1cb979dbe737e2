"""What requests wait for, kept in ZooKeeper for requestors that ask for progress.

One ephemeral znode per request. Of the launchers that queue the request, the first one creates
and writes it; the launcher that claims the request takes it over.
"""

from __future__ import annotations

from contextlib import suppress

from nodepool_k8s.errors import AlreadyExists, Conflict, Vanished
from nodepool_k8s.model import Progress
from nodepool_k8s.znodes import paths
from nodepool_k8s.znodes.paths import progress_path
from nodepool_k8s.znodes.progress import encode_progress
from nodepool_k8s.zookeeper.client import TransactionConflict, ZooKeeperClient
from nodepool_k8s.zookeeper.operations import Create, Delete, SetData

ANY = -1
"""The version of a record that this launcher may overwrite, no matter who created it."""


class ProgressRecords:
    """The records of all launchers. Every method raises SessionLost."""

    def __init__(self, client: ZooKeeperClient) -> None:
        self._client = client

    async def create(self, request_id: str, progress: Progress) -> int | None:
        """Create a request's record; its version, or None if another launcher created it."""
        await self._client.ensure_path(paths.PROGRESS)
        create = Create(progress_path(request_id), encode_progress(progress), True)
        try:
            await self._client.transaction([create])
        except TransactionConflict as conflict:
            if not isinstance(conflict.cause, AlreadyExists):
                raise
            return None
        return 0

    async def write(self, request_id: str, progress: Progress, version: int) -> int | None:
        """Write a record at that version; the new version, or None if another one took it over."""
        path = progress_path(request_id)
        try:
            await self._client.transaction([SetData(path, encode_progress(progress), version)])
        except Conflict:
            return None
        return ANY if version == ANY else version + 1

    async def take_over(self, request_id: str, progress: Progress) -> int | None:
        """Write the record of a request that we have claimed, no matter who created it."""
        return await self.write(request_id, progress, ANY) or await self.create(
            request_id, progress
        )

    async def remove(self, request_id: str, version: int) -> None:
        """Remove a record unless another launcher has taken it over."""
        with suppress(Conflict):
            await self._client.transaction([Delete(progress_path(request_id), version)])

    async def requests(self) -> list[str]:
        """Ids of the requests with a record."""
        try:
            return await self._client.children(paths.PROGRESS)
        except Vanished:
            return []
