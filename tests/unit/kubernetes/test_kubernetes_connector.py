"""What is left of connections when their connector is closed."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from nodepool_k8s.kubernetes.connector import Connector
from tests.support.waiting import eventually


async def more_than_is_buffered() -> AsyncIterator[bytes]:
    for _ in range(512):
        yield bytes(2**16)


class Silent(asyncio.Protocol):
    """The server's end: it reads nothing, so that the client has more to say than it can."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self.transport = transport


async def test_a_call_that_was_cancelled_leaves_no_connection_behind() -> None:
    servers_end = Silent()
    sockets: list[socket.socket] = []

    def make_socket(address: Any) -> socket.socket:
        family, kind, protocol, _, _ = address
        sockets.append(socket.socket(family, kind, protocol))
        return sockets[-1]

    def is_stuck() -> bool:
        return any(transport.get_write_buffer_size() for transport in connector.transports)

    connector = Connector(socket_factory=make_socket)
    server = await asyncio.get_running_loop().create_server(lambda: servers_end, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server:
        async with aiohttp.ClientSession(connector=connector) as session:
            body = more_than_is_buffered()
            call = asyncio.ensure_future(session.post(f"http://{host}:{port}/", data=body))
            await eventually(is_stuck)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            assert [each.fileno() for each in sockets] != [-1]
        await asyncio.sleep(0)
        assert [each.fileno() for each in sockets] == [-1]
        servers_end.transport.abort()
