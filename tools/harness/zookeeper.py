"""A ZooKeeper session that repeats what a lost connection interrupted, for asyncio.

kazoo's calls block: each runs in a thread of the event loop's default executor.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss, KazooException, LockTimeout, NoNodeError
from kazoo.recipe.lock import Lock
from kazoo.retry import KazooRetry

SESSION_S = 30.0
RETRY_S = 60.0
"""How long an interrupted call is repeated."""
START_S = 60.0
LOCK_S = 30.0
IN_FLIGHT = 500
"""Znodes whose creation is pending at a time."""

Record = dict[str, Any]


class ZooKeeperError(Exception):
    """Something in ZooKeeper is not as the protocol has it; the message says what."""


@dataclass(frozen=True)
class Seen:
    """What a znode held, or None if it was gone, and when it was read (monotonic clock)."""

    record: Record | None
    time: float


@dataclass(frozen=True)
class Znode:
    """A znode to create; with ``sequence``, the server appends a number to its path."""

    path: str
    record: Record | bytes = b""
    sequence: bool = False
    ephemeral: bool = False


class ZooKeeperSession:
    """One kazoo client. Paths are below the chroot in ``hosts``."""

    def __init__(self, hosts: str, timeout: float = SESSION_S) -> None:
        self.hosts = hosts
        self.kazoo: Any = KazooClient(
            hosts=hosts,
            timeout=timeout,
            connection_retry=KazooRetry(max_tries=-1, max_delay=0.5),
        )
        self._retry = KazooRetry(max_tries=-1, delay=0.05, max_delay=0.5, deadline=RETRY_S)

    @classmethod
    @asynccontextmanager
    async def connected(cls, hosts: str) -> AsyncIterator[Self]:
        """A session for the length of the block."""
        session = cls(hosts)
        await session.start()
        try:
            yield session
        finally:
            await session.stop()

    async def start(self) -> None:
        """Connect."""
        await asyncio.to_thread(self.kazoo.start, START_S)

    async def stop(self) -> None:
        """End the session, and with it every lock and ephemeral znode that it holds."""

        def stop() -> None:
            self.kazoo.stop()
            self.kazoo.close()

        await asyncio.to_thread(stop)

    async def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a blocking function of kazoo, again after a lost connection."""
        return await asyncio.to_thread(self._retry.copy(), function, *args, **kwargs)

    # --- znodes ----------------------------------------------------------------------------

    async def read(self, path: str) -> tuple[bytes, int] | None:
        """What a znode holds, and its version; None if there is no such znode."""
        try:
            data, stat = await self.do(self.kazoo.get, path)
        except NoNodeError:
            return None
        return data, stat.version

    async def get(self, path: str) -> Record | None:
        """The record in a znode; None if it is empty or missing."""
        found = await self.get_versioned(path)
        return found[0] if found else None

    async def get_versioned(self, path: str) -> tuple[Record, int] | None:
        """The record in a znode and its version; None if it is empty or missing."""
        found = await self.read(path)
        return (json.loads(found[0]), found[1]) if found and found[0] else None

    async def put(self, path: str, record: Record | bytes, version: int = -1) -> None:
        """Change what a znode holds. Raises NoNodeError, BadVersionError."""
        await self.do(self.kazoo.set, path, encode(record), version)

    async def create(self, path: str, record: Record | bytes, **options: Any) -> str:
        """Create a znode; its path. The options are those of kazoo's ``create``."""
        created: str = await self.do(self.kazoo.create, path, encode(record), **options)
        return created

    async def create_many(self, znodes: Iterable[Znode]) -> list[str]:
        """Create znodes without awaiting each one's creation; their paths.

        The first ones are sent before this coroutine gives up control.
        """
        paths: list[str] = []
        pending = iter(znodes)
        while batch := list(islice(pending, IN_FLIGHT)):
            sent = [
                self.kazoo.create_async(
                    each.path,
                    encode(each.record),
                    ephemeral=each.ephemeral,
                    sequence=each.sequence,
                    makepath=True,
                )
                for each in batch
            ]
            paths += await asyncio.to_thread(_results, sent)
        return paths

    async def get_many(self, paths: Iterable[str]) -> list[Record | None]:
        """What znodes hold, asked for all at once; None for each that is missing."""
        sent = [self.kazoo.get_async(path) for path in paths]
        return await asyncio.to_thread(lambda: [_result(each) for each in sent])

    async def children(self, path: str) -> list[str]:
        """The names below a path, sorted; none if it is missing."""
        try:
            names: list[str] = await self.do(self.kazoo.get_children, path)
        except NoNodeError:
            return []
        return sorted(names)

    async def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a znode if it exists, with all below it if told to."""
        try:
            await self.do(self.kazoo.delete, path, recursive=recursive)
        except NoNodeError:
            return

    async def watch_until(self, path: str, check: Callable[[Record | None], bool]) -> Seen:
        """Watch a znode until its record passes the check, which runs in kazoo's threads.

        The check gets None when the znode is gone.
        """
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Seen] = loop.create_future()

        def look(_: Any = None) -> None:
            if not found.done():
                self.kazoo.get_async(path, watch=look).rawlink(looked)

        def looked(result: Any) -> None:
            try:
                record = _result(result)
                passed = check(record)
            except ConnectionLoss:
                look()
            except (KazooException, ValueError, KeyError) as error:
                loop.call_soon_threadsafe(_settle, found, error)
            else:
                if passed:
                    loop.call_soon_threadsafe(_settle, found, Seen(record, time.monotonic()))

        look()
        return await found

    # --- locks -----------------------------------------------------------------------------

    async def try_lock(self, path: str, within: float = 0.0) -> Lock | None:
        """Take a lock by kazoo's recipe; None if another session holds it for that long."""
        lock = self.kazoo.Lock(path, "zuul")

        def take() -> bool:
            try:
                return bool(lock.acquire(blocking=within > 0, timeout=within or None))
            except (NoNodeError, LockTimeout):
                return False

        return lock if await asyncio.to_thread(take) else None

    async def lock(self, path: str) -> Lock:
        """Take a lock by kazoo's recipe. Raises ZooKeeperError if another session keeps it."""
        lock = await self.try_lock(path, LOCK_S)
        if lock is None:
            raise ZooKeeperError(f"{path} is locked")
        return lock

    async def unlock(self, lock: Lock) -> None:
        """Release a lock."""
        await asyncio.to_thread(lock.release)


def _results(sent: list[Any]) -> list[Any]:
    return [each.get(timeout=RETRY_S) for each in sent]


def _settle(future: asyncio.Future[Seen], outcome: Seen | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _result(result: Any) -> Record | None:
    try:
        data, _ = result.get(timeout=RETRY_S)
    except NoNodeError:
        return None
    return json.loads(data) if data else {}


def encode(record: Record | bytes) -> bytes:
    """A record as znodes hold it."""
    return record if isinstance(record, bytes) else json.dumps(record).encode()


async def create_chroot(hosts: str) -> None:
    """Create the chroot that is named in ``hosts``, in kazoo's form."""
    servers, slash, path = hosts.partition("/")
    async with ZooKeeperSession.connected(servers) as outside:
        await outside.do(outside.kazoo.ensure_path, slash + path)


async def delete_chroot(hosts: str) -> None:
    """Delete the chroot that is named in ``hosts`` and all in it."""
    servers, slash, path = hosts.partition("/")
    async with ZooKeeperSession.connected(servers) as outside:
        await outside.delete(slash + path, recursive=True)
