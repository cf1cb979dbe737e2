"""A ZooKeeper session that goes on asking when a connection drops; kazoo in threads."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import LockTimeout, NoNodeError
from kazoo.recipe.lock import Lock
from kazoo.retry import KazooRetry

SESSION_S = 60.0
DEADLINE_S = 60.0

Record = dict[str, Any]


class Session:
    """One kazoo client, for whoever awaits."""

    def __init__(self, hosts: str) -> None:
        self._client: Any = KazooClient(
            hosts=hosts,
            timeout=SESSION_S,
            connection_retry=KazooRetry(max_tries=-1, max_delay=0.5),
        )
        self._retry = KazooRetry(max_tries=-1, delay=0.05, max_delay=0.5, deadline=DEADLINE_S)

    async def start(self) -> Session:
        """Connect."""
        await asyncio.to_thread(self._client.start, DEADLINE_S)
        return self

    async def stop(self) -> None:
        """End the session, and with it all that it holds."""

        def stop() -> None:
            self._client.stop()
            self._client.close()

        await asyncio.to_thread(stop)

    async def _do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(self._retry.copy(), function, *args, **kwargs)

    async def ensure(self, path: str) -> None:
        """Make the path, if it is not there."""
        await self._do(self._client.ensure_path, path)

    async def read(self, path: str) -> tuple[Record, int] | None:
        """A record and its version; None where there is none."""
        try:
            data, stat = await self._do(self._client.get, path)
        except NoNodeError:
            return None
        return (json.loads(data), stat.version) if data else None

    async def text(self, path: str) -> str:
        """What a znode holds; nothing where there is none."""
        try:
            data, _ = await self._do(self._client.get, path)
        except NoNodeError:
            return ""
        return str(data.decode())

    async def children(self, path: str) -> list[str]:
        """The names below a path; none where it is missing."""
        try:
            names: list[str] = await self._do(self._client.get_children, path)
        except NoNodeError:
            return []
        return sorted(names)

    async def submit(self, prefix: str, record: Record) -> str:
        """Make a znode with a sequence number once, whatever the connection does; its name.

        Where the answer was lost, the record's ``event_id`` tells whether it is there.
        """
        mark = record["event_id"] = uuid.uuid4().hex
        tried = False

        def create() -> str:
            nonlocal tried
            found = self._find(prefix.rpartition("/")[0], mark.encode()) if tried else None
            tried = True
            if found is not None:
                return found
            made = self._client.create(prefix, json.dumps(record).encode(), sequence=True)
            return str(made.rpartition("/")[2])

        name: str = await self._do(create)
        return name

    def _find(self, parent: str, mark: bytes) -> str | None:
        for name in self._client.get_children(parent):
            with suppress(NoNodeError):
                if mark in self._client.get(f"{parent}/{name}")[0]:
                    return str(name)
        return None

    async def write(self, path: str, record: Record, version: int = -1) -> None:
        """Set a record. Raises NoNodeError, BadVersionError."""
        await self._do(self._client.set, path, json.dumps(record).encode(), version)

    async def remove(self, path: str) -> bool:
        """Remove a znode; whether it was there (a lost answer makes it look as if not)."""
        try:
            await self._do(self._client.delete, path)
        except NoNodeError:
            return False
        return True

    async def remove_all(self, path: str) -> None:
        """Remove a znode and all below it."""
        await self._do(self._client.delete, path, recursive=True)

    async def lock(self, path: str, patience: float) -> Lock | None:
        """Take a lock by kazoo's recipe; None where somebody has it for that many seconds."""
        lock = self._client.Lock(path, "zuul")

        def take() -> bool:
            try:
                return bool(lock.acquire(blocking=patience > 0, timeout=patience or None))
            except (NoNodeError, LockTimeout):
                return False

        return lock if await asyncio.to_thread(take) else None

    async def unlock(self, lock: Lock) -> None:
        """Let it go."""
        await asyncio.to_thread(lock.release)
