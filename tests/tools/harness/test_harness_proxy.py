"""The proxy cuts, refuses and loses what it is told to, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from harness.proxy import Proxy

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[Proxy], Awaitable[Connection]]


class Echo:
    """A server that sends back what it gets, and keeps it."""

    def __init__(self) -> None:
        self.got = b""
        self.came = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            self.got += data
            self.came.set()
            writer.write(data)
        writer.close()


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, Proxy.to(f"{host}:{port}") as proxy:
        yield proxy


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connects to a proxy."""
    opened: list[Connection] = []

    async def connect(proxy: Proxy) -> Connection:
        host, _, port = proxy.address.rpartition(":")
        opened.append(await asyncio.open_connection(host, int(port)))
        return opened[-1]

    yield connect
    for _, writer in opened:
        writer.transport.abort()


async def echoed(connection: Connection, data: bytes) -> bytes:
    """What comes back; nothing if the connection is dropped."""
    reader, writer = connection
    writer.write(data)
    try:
        return await reader.read(100)
    except ConnectionError:
        return b""


async def test_what_is_sent_goes_both_ways(connect: Connect, proxy: Proxy) -> None:
    connection = await connect(proxy)
    assert await echoed(connection, b"a") == b"a"
    assert await echoed(connection, b"b") == b"b"


async def test_a_cut_drops_connections_and_lets_new_ones_in(connect: Connect, proxy: Proxy) -> None:
    connection = await connect(proxy)
    assert await echoed(connection, b"a") == b"a"
    await proxy.cut()
    assert await echoed(connection, b"b") == b""
    connection = await connect(proxy)
    assert await echoed(connection, b"c") == b"c"


async def test_a_refusing_proxy_drops_all_until_restored(connect: Connect, proxy: Proxy) -> None:
    connection = await connect(proxy)
    assert await echoed(connection, b"a") == b"a"
    await proxy.refuse()
    assert await echoed(connection, b"b") == b""
    assert await echoed(await connect(proxy), b"c") == b""
    proxy.restore()
    connection = await connect(proxy)
    assert await echoed(connection, b"d") == b"d"


async def test_a_lost_answer_leaves_what_was_asked(
    connect: Connect, proxy: Proxy, echo: Echo
) -> None:
    reader, writer = await connect(proxy)
    proxy.lose_answers()
    writer.write(b"a")
    await asyncio.wait_for(proxy.lost_answer.wait(), 10)
    assert echo.got == b"a"
    proxy.restore()
    assert not proxy.lost_answer.is_set()
    assert await echoed((reader, writer), b"b") == b"b"


async def test_a_delay_applies_in_each_direction(connect: Connect, proxy: Proxy) -> None:
    connection = await connect(proxy)
    proxy.delay = 0.01
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await echoed(connection, b"a") == b"a"
    assert loop.time() - began >= 0.02


async def test_a_target_that_is_down_drops_the_connection(connect: Connect) -> None:
    async with Proxy.to("127.0.0.1:1") as proxy:
        assert await echoed(await connect(proxy), b"a") == b""
