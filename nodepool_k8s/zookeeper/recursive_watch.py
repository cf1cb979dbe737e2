"""kazoo with persistent recursive watches, results without a thread hop, fewer system calls.

kazoo 2.11 supports only one-shot watches. A tree of thousands of nodes needs thousands of
them, each with a gap between firing and being set again. ZooKeeper 3.6 has persistent
recursive watches (operation 106), which this subclass adds. They end with the connection:
set them again after each reconnect, and list again.
"""

from __future__ import annotations

import select
import ssl
import threading
from collections import namedtuple
from collections.abc import Callable
from typing import Any

from kazoo.client import KazooClient
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.handlers.utils import AsyncResult
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.serialization import Watch, int_struct, write_string
from kazoo.protocol.states import EVENT_TYPE_MAP

PERSISTENT_RECURSIVE = 1

READ_AHEAD = 65536
"""Bytes."""

WatchCallback = Callable[[str, str], None]
"""Called on kazoo's connection thread with the event's type and its path."""


class AddWatch(namedtuple("AddWatch", "path mode")):
    """The request that sets a persistent watch (ZooDefs.OpCode.addWatch)."""

    type = 106
    __slots__ = ()

    def serialize(self) -> bytes:
        """Path and mode, in jute's form."""
        return bytes(write_string(self.path) + int_struct.pack(self.mode))

    @classmethod
    def deserialize(cls, _data: bytes, _offset: int) -> bool:
        """The response carries only an error code, which kazoo has already checked."""
        return True


class InlineResult(AsyncResult):  # type: ignore[misc]
    """A result that runs its callbacks on the thread that sets it."""

    def _do_callbacks(self) -> None:
        for callback in self._callbacks:
            callback(self)


class BufferedSocket:
    """A socket that reads ahead.

    kazoo reads each packet in two pieces and waits before each; under load most of the data
    has already arrived. kazoo calls ``pending`` on TLS sockets for the same reason.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._data = b""
        self._position = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def pending(self) -> int:
        """Bytes that can be read without waiting."""
        in_tls = self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else 0
        return len(self._data) - self._position + int(in_tls)

    def recv(self, size: int) -> bytes:
        """Read up to ``size`` bytes. Raises what the socket raises."""
        if self._position == len(self._data):
            self._data, self._position = self._sock.recv(READ_AHEAD), 0
        chunk = self._data[self._position : self._position + size]
        self._position += len(chunk)
        return chunk


class InlineHandler(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's threading handler with inline results and buffered sockets."""

    def async_result(self) -> InlineResult:
        """A new result; its callbacks must not block."""
        return InlineResult(self, threading.Condition, self.timeout_exception)

    def create_connection(self, *args: Any, **kwargs: Any) -> BufferedSocket:
        """Connect."""
        return BufferedSocket(super().create_connection(*args, **kwargs))

    def select(
        self, readers: list[Any], writers: list[Any], _errors: list[Any], timeout: float | None
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """Wait until one of the sockets is ready; ``timeout`` is in seconds.

        kazoo creates and closes an epoll instance for each wait, several times per packet;
        one poll call does the same with a third of the CPU time.
        """
        usable = {
            reader.fileno()
            for reader in readers
            if isinstance(reader, BufferedSocket) and reader.pending()
        }
        poll = select.poll()
        for reader in readers:
            poll.register(reader, select.POLLIN)
        for writer in writers:
            poll.register(writer, select.POLLOUT)
        milliseconds = None if timeout is None else timeout * 1000
        usable |= {number for number, _ in poll.poll(0 if usable else milliseconds)}
        return (
            [reader for reader in readers if reader.fileno() in usable],
            [writer for writer in writers if writer.fileno() in usable],
            [],
        )


class RecursiveWatchConnection(ConnectionHandler):  # type: ignore[misc]
    """kazoo's connection, which passes each watch event to ``watch_callback`` first.

    Doing so on the connection's thread keeps ZooKeeper's order: an event is seen before the
    response to any later read.
    """

    def _read_watch_event(self, buffer: bytes, offset: int) -> None:
        watch, _ = Watch.deserialize(buffer, offset)
        callback = self.client.watch_callback
        if callback is not None and watch.type in EVENT_TYPE_MAP:
            callback(EVENT_TYPE_MAP[watch.type], self.client.unchroot(watch.path))
        super()._read_watch_event(buffer, offset)


class RecursiveWatchClient(KazooClient):  # type: ignore[misc]
    """A kazoo client with persistent recursive watches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, handler=InlineHandler(), **kwargs)
        self.watch_callback: WatchCallback | None = None
        old: ConnectionHandler = self._connection
        self._connection: ConnectionHandler = RecursiveWatchConnection(
            self, old.retry_sleeper, logger=old.logger, sasl_options=old.sasl_options
        )

    def add_recursive_watch_async(self, path: str) -> AsyncResult:
        """Watch ``path`` and everything below; events go to ``watch_callback``."""
        result = self.handler.async_result()
        chroot = self.chroot or ""
        self._call(AddWatch(chroot + path, PERSISTENT_RECURSIVE), result)
        return result
