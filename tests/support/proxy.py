"""A TCP connection that can be cut, and answers that can be lost, at the moment a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CHUNK = 65536


class Proxy:
    """Forwards to one address; everything in the test's own event loop."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._server: asyncio.Server
        self._pipes: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._swallowing = False
        self.swallowed = asyncio.Event()
        """Set when an answer was lost."""

    @classmethod
    @asynccontextmanager
    async def to(cls, target: str) -> AsyncIterator[Proxy]:
        proxy = cls(target)
        proxy._server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        try:
            yield proxy
        finally:
            proxy._server.close()
            await proxy.cut()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._server.sockets[0].getsockname()
        return host, port

    async def cut(self) -> None:
        """Drop every connection, and refuse new ones."""
        self._refusing = True
        while self._pipes:
            for pipe in self._pipes:
                pipe.cancel()
            await asyncio.wait(set(self._pipes))

    def restore(self) -> None:
        """Let connections through again."""
        self._refusing = self._swallowing = False
        self.swallowed.clear()

    def lose_answers(self) -> None:
        """What is asked arrives; what is answered does not."""
        self._swallowing = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        with suppress(OSError, asyncio.CancelledError):
            await self._pipe(reader, writer)
        self._pipes.discard(task)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, back, answers=False))
                group.create_task(self._forward(there, writer, answers=True))
        except* OSError:
            pass
        finally:
            for each in (writer, back):
                each.transport.abort()

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while data := await source.read(CHUNK):
            if answers and self._swallowing:
                self.swallowed.set()
                continue
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError  # Ends the other direction as well.
