"""A TCP connection that can be cut, refused, or made slow: a launcher's way to a server."""

from __future__ import annotations

import asyncio
from contextlib import suppress

CHUNK = 65536


class Wire:
    """Forwards to one address until told otherwise."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self.refusing = False
        """New connections are closed at once."""
        self.delay = 0.0
        """Seconds that whatever is sent waits, in each direction."""

    async def start(self) -> Wire:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def stop(self) -> None:
        """Listen no more, and drop what is connected."""
        if self._server is not None:
            self._server.close()
        self.refusing = True
        await self.cut()

    @property
    def address(self) -> str:
        """``HOST:PORT``, to be connected to."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def cut(self) -> None:
        """Drop every connection that there is."""
        pipes = set(self._pipes)
        for pipe in pipes:
            pipe.cancel()
        if pipes:
            await asyncio.wait(pipes)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.refusing:
            writer.transport.abort()
            return
        self._pipes.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._pipe(reader, writer)
        finally:
            self._pipes.discard(task)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back: asyncio.StreamWriter | None = None
        try:
            there, back = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, back))
                group.create_task(self._forward(there, writer))
        except* OSError:
            pass
        finally:
            for each in (writer, back):
                if each is not None:
                    each.transport.abort()

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError  # Ends the other direction as well.
