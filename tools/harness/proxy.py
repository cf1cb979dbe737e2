"""A TCP proxy that cuts, refuses and delays connections, or loses answers, when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CHUNK = 65536


class Proxy:
    """Forwards connections to one address, in the event loop that started it."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._losing_answers = False
        self.delay = 0.0
        """Seconds by which each chunk is delayed, in each direction."""
        self.lost_answer = asyncio.Event()
        """Set when the first answer was lost; cleared by `restore`."""

    @classmethod
    @asynccontextmanager
    async def to(cls, target: str) -> AsyncIterator[Proxy]:
        """Forward to ``HOST:PORT`` for the length of the block."""
        proxy = cls(target)
        proxy._server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        try:
            yield proxy
        finally:
            proxy._server.close()
            await proxy.refuse()

    @property
    def address(self) -> str:
        """``HOST:PORT`` to connect to."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def cut(self) -> None:
        """Drop every connection; new ones are forwarded."""
        while self._connections:
            for connection in self._connections:
                connection.cancel()
            await asyncio.wait(set(self._connections))

    async def refuse(self) -> None:
        """Drop every connection, and close new ones at once, until `restore`."""
        self._refusing = True
        await self.cut()

    def lose_answers(self) -> None:
        """Forward what clients send, and drop what the target answers, until `restore`."""
        self._losing_answers = True

    def restore(self) -> None:
        """Forward everything again."""
        self._refusing = self._losing_answers = False
        self.delay = 0.0
        self.lost_answer.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            self._connections.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_target: asyncio.StreamWriter | None = None
        try:
            from_target, to_target = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, to_target))
                group.create_task(self._forward(from_target, writer, answers=True))
        except* OSError:
            pass
        finally:
            for each in (writer, to_target):
                if each is not None:
                    each.transport.abort()

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        while data := await source.read(CHUNK):
            if answers and self._losing_answers:
                self.lost_answer.set()
                continue
            if self.delay:
                await asyncio.sleep(self.delay)
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError  # Ends the other direction as well.
