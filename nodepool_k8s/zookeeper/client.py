"""The bridge between kazoo's threads and our event loop; the only user of kazoo.

Every operation is a coroutine, raises our errors, and survives a dropped connection
for as long as the session lives: reads are repeated, and a transaction whose response was
lost is looked up before it is repeated, because it may have been applied. When the session
is over, every operation in flight raises SessionLost.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from kazoo import exceptions as kazoo_errors
from kazoo.protocol.states import KazooState
from kazoo.retry import KazooRetry

from nodepool_k8s.aio import race
from nodepool_k8s.errors import (
    AlreadyExists,
    Conflict,
    ConnectionLost,
    Held,
    Outdated,
    SessionLost,
    Vanished,
    ZooKeeperError,
)
from nodepool_k8s.znodes import paths
from nodepool_k8s.zookeeper.observer import SilentObserver, ZooKeeperObserver
from nodepool_k8s.zookeeper.operations import Check, Create, Delete, Operation, SetData
from nodepool_k8s.zookeeper.recursive_watch import RecursiveWatchClient
from nodepool_k8s.zookeeper_settings import ZooKeeperSettings

log = logging.getLogger(__name__)

EventCallback = Callable[[str, str], None]

CONNECT_TIMEOUT = 15.0

LOOK_SECONDS = 0.1
"""How often a thread that waits for a connection checks whether its caller has given up."""

_CONFLICTS: dict[type[Exception], type[Conflict]] = {
    kazoo_errors.NoNodeError: Vanished,
    kazoo_errors.NodeExistsError: AlreadyExists,
    kazoo_errors.NotEmptyError: Held,
    kazoo_errors.BadVersionError: Outdated,
}

_SESSION_OVER = (
    kazoo_errors.SessionExpiredError,
    kazoo_errors.ConnectionClosedError,
    kazoo_errors.AuthFailedError,
)


@dataclass(frozen=True, slots=True)
class Stat:
    """The part of a znode's stat that this package uses."""

    version: int


class TransactionConflict(Conflict):
    """A transaction was not applied; ``operation`` is the one that failed."""

    def __init__(self, cause: Conflict, operation: Operation) -> None:
        super().__init__(f"{type(operation).__name__} {operation.path}: {cause}")
        self.cause = cause
        self.operation = operation


class ZooKeeperSession:
    """One ZooKeeper session. Once it is over, it stays over."""

    def __init__(self) -> None:
        self._over = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether the session has ended, and with it every lock that it held."""
        return self._over.is_set()

    def end(self) -> None:
        """Mark it as over and wake the waiters of ``ended``."""
        self._over.set()

    async def ended(self) -> None:
        """Wait until the session is over."""
        await self._over.wait()


class ZooKeeperClient:
    """A connection to ZooKeeper for one event loop."""

    def __init__(
        self, settings: ZooKeeperSettings, observer: ZooKeeperObserver | None = None
    ) -> None:
        self.settings = settings
        self._observer = observer or SilentObserver()
        self._loop = asyncio.get_running_loop()
        self._connected = asyncio.Event()
        self._news = asyncio.Event()
        self.connections = 0
        """Number of connections so far; watches must be set again after each."""
        self._callback: EventCallback | None = None
        self._closing = False
        self._stopping: asyncio.Future[None] | None = None
        self.session = ZooKeeperSession()
        self._kazoo = RecursiveWatchClient(
            hosts=settings.hosts,
            timeout=settings.timeout,
            connection_retry=_retry(),
            **_tls_options(settings),
        )
        self._kazoo.add_listener(self._on_kazoo_state)
        self._kazoo.watch_callback = self._on_kazoo_event

    # --- connection ----------------------------------------------------------------

    async def start(
        self, timeout: float | None = CONNECT_TIMEOUT, *, make_chroot: bool = True
    ) -> None:
        """Connect, and create the chroot if it is missing.

        ``timeout`` is in seconds; None waits forever. Clients pass ``make_chroot=False``,
        which saves the extra connection that this takes. Raises ConnectionLost.
        """
        if make_chroot:
            await self._make_chroot(timeout)
        self._kazoo.start_async()
        try:
            async with asyncio.timeout(timeout):
                await self._connected.wait()
        except TimeoutError as error:
            await self.close()
            raise self._unreachable(timeout) from error

    async def close(self) -> None:
        """End the session, which releases every lock that it holds."""
        self._closing = True
        self.session.end()
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(asyncio.to_thread(self._stop_kazoo))
        # It runs once and to its end: a second close, after a cancelled first one, waits for it.
        await asyncio.shield(self._stopping)

    def _stop_kazoo(self) -> None:
        self._kazoo.stop()
        self._kazoo.close()

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._connected.is_set()

    @property
    def queued(self) -> int:
        """How many operations wait to be sent."""
        return len(self._kazoo._queue)

    async def wait_connected(self) -> None:
        """Wait for a connection, in this session or in a later one."""
        await self._connected.wait()

    async def wait_connection_after(self, seen: int) -> None:
        """Wait until a connection was made after the ``seen``th."""
        while self.connections <= seen:
            self._news.clear()
            await self._news.wait()

    async def _make_chroot(self, timeout: float | None) -> None:
        chroot = self.settings.servers[0].chroot.strip("/")
        if not chroot:
            return
        bare = RecursiveWatchClient(
            hosts=self.settings.hosts.rpartition(f"/{chroot}")[0],
            timeout=self.settings.timeout,
            connection_retry=_retry(),
            **_tls_options(self.settings),
        )

        given_up = threading.Event()

        def make() -> bool:
            limit = time.monotonic() + (timeout or CONNECT_TIMEOUT)
            connected = bare.start_async()
            try:
                while not connected.wait(LOOK_SECONDS):
                    if given_up.is_set() or time.monotonic() > limit:
                        return False
                bare.ensure_path(f"/{chroot}")
                return True
            finally:
                bare.stop()
                bare.close()

        try:
            made = await asyncio.to_thread(make)
        finally:
            # A caller that stops while no server answers does not wait for that thread.
            given_up.set()
        if not made:
            raise self._unreachable(timeout)

    def _unreachable(self, timeout: float | None) -> ConnectionLost:
        return ConnectionLost(
            f"no ZooKeeper answered at {self.settings.hosts} within {timeout:g} s; check "
            "zookeeper-servers, and zookeeper-tls if the port speaks TLS"
        )

    def _on_kazoo_state(self, state: str) -> None:
        self._loop_call(self._on_state, state)

    def _on_state(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            if self.session.over and not self._closing:
                self.session = ZooKeeperSession()
            self.connections += 1
            self._connected.set()
        else:
            self._connected.clear()
            if state == KazooState.LOST:
                self.session.end()
                if not self._closing:
                    self._observer.session_lost()
        self._observer.connection_changed(self.connected)
        level = logging.DEBUG if self._closing else logging.INFO
        log.log(level, "ZooKeeper connection is %s", state.lower())
        self._news.set()

    def _loop_call(self, function: Callable[..., None], *args: object) -> None:
        # kazoo's threads outlive the loop by a moment when a program ends.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    # --- events ---------------------------------------------------------------------

    def on_event(self, callback: EventCallback) -> None:
        """Hand every tree event (type, path) to ``callback``, on the event loop."""
        self._callback = callback

    async def watch_recursively(self, path: str) -> None:
        """Watch ``path`` and everything below it until the connection drops."""
        try:
            await self._read(self._kazoo.add_recursive_watch_async, path)
        except ZooKeeperError as error:
            if isinstance(error.__cause__, kazoo_errors.UnimplementedError):
                raise ZooKeeperError(
                    "this ZooKeeper is older than 3.6 and lacks persistent recursive watches; "
                    "upgrade it"
                ) from error
            raise

    def _on_kazoo_event(self, kind: str, path: str) -> None:
        self._loop_call(self._on_watch_event, kind, path)

    def _on_watch_event(self, kind: str, path: str) -> None:
        if self._callback is not None:
            self._callback(kind, path)

    # --- single operations -------------------------------------------------------------

    async def get(self, path: str) -> tuple[bytes, Stat]:
        """Data and stat. Raises Vanished, SessionLost."""
        data, stat = await self._read(self._kazoo.get_async, path)
        return data or b"", _stat(stat)

    async def children(self, path: str) -> list[str]:
        """Names of the children. Raises Vanished, SessionLost."""
        names: list[str] = await self._read(self._kazoo.get_children_async, path)
        return names

    async def exists(self, path: str) -> Stat | None:
        """The stat, or None if the znode does not exist. Raises SessionLost."""
        stat = await self._read(self._kazoo.exists_async, path)
        return None if stat is None else _stat(stat)

    async def sync(self, path: str) -> None:
        """Wait until the connected server has caught up with the leader."""
        await self._read(self._kazoo.sync_async, path)

    async def create_sequence(self, prefix: str, data: bytes, *, ephemeral: bool = False) -> str:
        """Create a znode whose name ends in a sequence number, and return its path.

        Raises ConnectionLost if the response was lost: the znode may exist under a name
        that this process does not know.
        """
        path: str = await self._ask(
            self._kazoo.create_async, prefix, data, None, ephemeral, True, False
        )
        return path

    async def ensure_path(self, path: str) -> None:
        """Create the znode and its parents if they are missing."""
        await self._read(self._kazoo.ensure_path_async, path)

    async def _read(self, function: Callable[..., Any], *args: object) -> Any:
        """An idempotent operation, repeated when the connection drops."""
        session = self.session
        while True:
            try:
                return await self._ask(function, *args)
            except SessionLost:
                raise
            except ConnectionLost:
                await self._reconnected(session)

    async def _ask(self, function: Callable[..., Any], *args: object) -> Any:
        """One round trip; kazoo's errors become ours."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def answered(result: Any) -> None:
            self._loop_call(_settle, future, result)

        began = time.monotonic()
        function(*args).rawlink(answered)
        try:
            return await future
        except Exception as error:
            _translate(error)
        finally:
            self._observer.answered(_name(function), time.monotonic() - began)

    async def _reconnected(self, session: ZooKeeperSession) -> None:
        """Wait for the connection to come back. Raises SessionLost when the session is over."""
        await race(session.ended(), self._connected.wait())
        _require(session)

    # --- transactions -------------------------------------------------------------------

    async def transaction(self, operations: Sequence[Operation]) -> None:
        """Apply all operations at once.

        Raises TransactionConflict (nothing applied; it names the operation that did
        not fit), SessionLost (it may have been applied; the locks are lost anyway).
        """
        session = self.session
        while True:
            # kazoo would send it in the next session as well, which does not hold our locks.
            _require(session)
            try:
                return await self._commit(operations)
            except SessionLost:
                raise
            except ConnectionLost:
                await self._reconnected(session)
                if await self._has_happened(operations):
                    return None

    async def _commit(self, operations: Sequence[Operation]) -> None:
        request = self._kazoo.transaction()
        for operation in operations:
            match operation:
                case Check(path, version):
                    request.check(path, version)
                case Create(path, data, ephemeral):
                    request.create(path, data, None, ephemeral)
                case SetData(path, data, version):
                    request.set_data(path, data, version)
                case Delete(path, version):
                    request.delete(path, version)
        results = await self._ask(request.commit_async)
        for operation, result in zip(operations, results, strict=False):
            if isinstance(result, Exception) and not _is_bystander(result):
                _raise_conflict(result, operation)

    async def _has_happened(self, operations: Sequence[Operation]) -> bool:
        """Whether a transaction whose response was lost was applied.

        Transactions are atomic, so one operation that only this process could have done
        is proof: our child of a lock was created or deleted, else our data and version.
        """
        for operation in operations:
            if isinstance(operation, Create) and operation.ephemeral:
                return await self.exists(operation.path) is not None
        for operation in operations:
            if isinstance(operation, Delete) and paths.LOCK_INFIX in operation.path:
                return await self.exists(operation.path) is None
        for operation in operations:
            if isinstance(operation, SetData):
                return await self._is_set(operation)
        return False

    async def _is_set(self, operation: SetData) -> bool:
        try:
            data, stat = await self.get(operation.path)
        except Vanished:
            return False
        return data == operation.data and stat.version == operation.version + 1


def _retry() -> KazooRetry:
    """Reconnect indefinitely, with a short maximum delay (kazoo's default grows)."""
    return KazooRetry(max_tries=-1, delay=0.1, max_delay=1.0)


def _name(function: Callable[..., Any]) -> str:
    """The operation's name, from the name of kazoo's method."""
    name = function.__name__.removesuffix("_async")
    return "transaction" if name == "commit" else name


def _require(session: ZooKeeperSession) -> None:
    if session.over:
        raise SessionLost("the ZooKeeper session is over")


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():  # Its waiter was cancelled.
        return
    if result.successful():
        future.set_result(result.value)
    else:
        future.set_exception(result.exception)


def _stat(stat: Any) -> Stat:
    return Stat(stat.version)


def _tls_options(settings: ZooKeeperSettings) -> dict[str, Any]:
    if settings.tls is None:
        return {}
    return {
        "use_ssl": True,
        "certfile": settings.tls.cert,
        "keyfile": settings.tls.key,
        "ca": settings.tls.ca,
    }


def _translate(error: Exception) -> NoReturn:
    for kind, ours in _CONFLICTS.items():
        if isinstance(error, kind):
            raise ours(str(error) or kind.__name__) from error
    if isinstance(error, _SESSION_OVER):
        raise SessionLost("the ZooKeeper session is over") from error
    if isinstance(error, kazoo_errors.ConnectionLoss):
        raise ConnectionLost("the connection to ZooKeeper broke") from error
    if isinstance(error, kazoo_errors.KazooException):
        raise ZooKeeperError(f"ZooKeeper: {type(error).__name__} {error}".rstrip()) from error
    raise error


def _is_bystander(result: Exception) -> bool:
    """True for the operations of a failed transaction that did not cause its failure."""
    return isinstance(result, kazoo_errors.RolledBackError | kazoo_errors.RuntimeInconsistency)


def _raise_conflict(result: Exception, operation: Operation) -> NoReturn:
    try:
        _translate(result)
    except Conflict as conflict:
        raise TransactionConflict(conflict, operation) from result
