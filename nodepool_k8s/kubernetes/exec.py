"""Commands in a pod's container, over the API server's websocket.

Owns the protocol of ``pods/exec``: channels, the end of standard input, the exit status.
Bytes pass unchanged, stdout and stderr apart, without buffering: a slow reader holds up
the command, and a command that does not read holds up its source.

It uses an ``Api``: a launcher's ``ApiClient``, or ``NodeApi``, which needs only a node's
record. Does not import the Kubernetes client, whose import takes longer than many a command.

The protocol, as the API server has it since 1.4 (v4) and 1.30 (v5): each message's first
byte is its channel: 0 stdin, 1 stdout, 2 stderr, 3 a Status at the end. Since v5 a message on
channel 255 names a channel that has ended; before, standard input cannot be ended.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import socket as sockets
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from nodepool_k8s.aio import cancel_all
from nodepool_k8s.errors import (
    ApiError,
    CommandError,
    CommandNotStarted,
    KubernetesError,
    describe,
)
from nodepool_k8s.kubernetes.connector import Connector
from nodepool_k8s.kubernetes.responses import api_error, loads, unreachable

V5 = "v5.channel.k8s.io"
V4 = "v4.channel.k8s.io"

STDIN, STDOUT, STDERR, STATUS, CLOSE = 0, 1, 2, 3, 255

OPEN_SECONDS = 30.0
CLOSE_SECONDS = 1.0
PING_SECONDS = 30.0
"""Proxies may close a connection that is silent for a minute."""
PIECE = 32 * 1024 - 1
"""Bytes of standard input in a message, as in kubectl."""

Source = AsyncIterable[bytes]
"""A command's standard input."""
Sink = Callable[[bytes], Awaitable[None]]
"""Takes what a command wrote; the command is held up until it returns."""
Query = Sequence[tuple[str, str]]
WebSocket = aiohttp.ClientWebSocketResponse


class Api(Protocol):
    """An API server that opens websockets for us, and reads objects."""

    def websocket(
        self, path: str, query: Query, protocols: Sequence[str]
    ) -> AbstractAsyncContextManager[WebSocket]:
        """Open one; it is closed at the end of the block. Raises KubernetesError."""

    async def get(self, path: str) -> dict[str, Any]:
        """Read an object. Raises KubernetesError."""


async def execute(
    api: Api,
    namespace: str,
    pod: str,
    command: Sequence[str],
    *,
    container: str | None = None,
    stdin: Source | None = None,
    stdout: Sink | None = None,
    stderr: Sink | None = None,
) -> int:
    """Run a command to its end; its exit status, 128 + n where signal n ended it.

    Without ``container`` it is the pod's default one, or its first. Without a sink, what the
    command writes is dropped; without ``stdin`` it has none. What a sink or the source
    raises ends the call, as a cancellation does; the command itself may go on in its
    container, as nothing can end it there, but its streams are closed.

    Raises CommandNotStarted, CommandError (how it ended is not known), KubernetesError.
    """
    where = f"/api/v1/namespaces/{namespace}/pods/{pod}"
    streams = [("stdout", "true"), ("stderr", "true")]
    if stdin is not None:
        streams.append(("stdin", "true"))
    query = [*(("command", part) for part in command), *streams]
    sinks = {STDOUT: stdout, STDERR: stderr}

    async def attempt(container: str | None) -> int:
        chosen = [("container", container)] if container else []
        async with api.websocket(f"{where}/exec", [*query, *chosen], (V5, V4)) as socket:
            return await _converse(socket, stdin, sinks)

    try:
        return await attempt(container)
    except ApiError as error:
        # The server chooses where there is only one.
        if error.status != 400 or container or "container name must be specified" not in str(error):
            raise
    return await attempt(_main_container(await api.get(where)))


def _main_container(pod: Mapping[str, Any]) -> str:
    """The container that kubectl would choose."""
    chosen = (pod["metadata"].get("annotations") or {}).get(
        "kubectl.kubernetes.io/default-container"
    )
    return str(chosen or pod["spec"]["containers"][0]["name"])


# --- the protocol ---------------------------------------------------------------------------


async def _converse(
    socket: WebSocket, stdin: Source | None, sinks: Mapping[int, Sink | None]
) -> int:
    if socket.protocol not in (V5, V4):
        raise CommandError(
            f"the API server speaks neither {V5} nor {V4}: is it older than Kubernetes 1.4, or is "
            "a proxy in the way that drops Sec-WebSocket-Protocol?"
        )
    receiving = asyncio.ensure_future(_receive(socket, sinks))
    helpers = [asyncio.ensure_future(_ping(socket))]
    if stdin is not None:
        helpers.append(asyncio.ensure_future(_feed(socket, stdin)))
    tasks = {receiving, *helpers}
    try:
        waiting: set[asyncio.Future[Any]] = set(tasks)
        while not receiving.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                # For example what the source raised.
                task.result()
        return receiving.result()
    finally:
        await cancel_all(tasks)


async def _receive(socket: WebSocket, sinks: Mapping[int, Sink | None]) -> int:
    """Pass on the command's output until it ends; return its exit status."""
    while True:
        message = await socket.receive()
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise CommandError(_why_cut(socket, message))
        data: bytes = message.data
        if len(data) < 2:  # An empty message announces a channel.
            continue
        if data[0] == STATUS:
            return _exit_status(data[1:])
        sink = sinks.get(data[0])
        if sink is not None:
            await sink(data[1:])


async def _feed(socket: WebSocket, stdin: Source) -> None:
    """Send the command its standard input, then its end."""
    async for chunk in stdin:
        view = memoryview(chunk)
        for start in range(0, len(view), PIECE):
            if not await _send(socket, b"\0" + view[start : start + PIECE]):
                return
    if socket.protocol == V5:
        await _send(socket, bytes([CLOSE, STDIN]))
        return
    raise CommandError(
        "the API server is older than Kubernetes 1.30 and cannot tell a command that its standard "
        "input has ended: run it without standard input"
    )


async def _send(socket: WebSocket, message: bytes) -> bool:
    """Send once there is room; False where the connection is closed."""
    try:
        await socket.send_bytes(message)
    except (aiohttp.ClientError, ConnectionError):
        return False
    return True


async def _ping(socket: WebSocket) -> None:
    """Keep proxies from closing the connection. A pong may be stuck behind stdin."""
    while True:
        await asyncio.sleep(PING_SECONDS)
        try:
            await socket.ping()
        except (aiohttp.ClientError, ConnectionError):
            return


def _why_cut(socket: WebSocket, message: Any) -> str:
    why = "the connection to the API server broke"
    if message.type is aiohttp.WSMsgType.ERROR and socket.exception():
        why += f" ({describe(socket.exception() or Exception())})"
    elif message.type is aiohttp.WSMsgType.CLOSE and message.extra:
        why += f" ({message.extra})"
    return (
        f"{why} before the command's exit status came: "
        "the pod may be deleted, or the command still runs"
    )


def _exit_status(text: bytes) -> int:
    """Read the Status at the end. Raises CommandNotStarted, CommandError."""
    try:
        status = loads(text)
        if status.get("status") == "Success":
            return 0
        message = str(status.get("message") or text.decode(errors="replace"))
        if status.get("reason") == "NonZeroExitCode":
            causes = status["details"]["causes"]
            return next(int(cause["message"]) for cause in causes if cause["reason"] == "ExitCode")
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        shown = text[:200].decode(errors="replace")
        raise CommandError(f"the command's exit status cannot be read: {shown}") from error
    raise _refusal(message)


_NOT_STARTED = (
    "executable file not found",
    "no such file or directory",
    "permission denied",
    "exec format error",
)
_NOT_ASKED = "dialing"
"""The kubelet or the runtime was unreachable: gRPC's message resembles a missing command's."""


def _refusal(message: str) -> CommandError:
    """The error for a container runtime's message about a command that did not run."""
    said = message.lower()
    if _NOT_ASKED not in said and any(sign in said for sign in _NOT_STARTED):
        return CommandNotStarted(message)
    return CommandError(message)


# --- opening --------------------------------------------------------------------------------


@asynccontextmanager
async def opened(
    connector: aiohttp.BaseConnector,
    url: URL,
    protocols: Sequence[str],
    headers: Mapping[str, str],
    **extra: Any,
) -> AsyncIterator[WebSocket]:
    """Open a websocket over a connector that stays open; ``extra`` is passed to aiohttp.

    Raises ApiError with the server's own words, ClusterUnreachable.
    """
    transports: list[asyncio.BaseTransport | None] = []

    async def look(response: aiohttp.ClientResponse) -> None:
        await _raise_refusal(response)
        transports.append(response.connection.transport if response.connection else None)

    async with aiohttp.ClientSession(
        connector=connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        raise_for_status=look,
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                socket = await session.ws_connect(
                    url,
                    protocols=protocols,
                    headers=headers,
                    max_msg_size=0,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                    **extra,
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unreachable(error) from error
        try:
            _keep_alive(socket)
            yield socket
        finally:
            await _close(socket, transports)


async def _close(socket: WebSocket, transports: Sequence[asyncio.BaseTransport | None]) -> None:
    try:
        # It waits behind what the server does not read.
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await socket.close()
    finally:
        for transport in transports:
            # A TLS shutdown could outlive the event loop.
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()


async def _raise_refusal(response: aiohttp.ClientResponse) -> None:
    if response.status >= 400:
        raise api_error(response, await response.read())


def _keep_alive(socket: WebSocket) -> None:
    """Detect a dead server with TCP keep-alive: a command may be silent for hours."""
    raw = socket.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
            raw.setsockopt(sockets.IPPROTO_TCP, getattr(sockets, option), value)


# --- by a node's record -----------------------------------------------------------------------


class NodeApi:
    """The API server of a node, reached with the connection in the node's record."""

    def __init__(self, connection: object) -> None:
        """``connection`` is the record's ``connection_port``. Raises KubernetesError."""
        if not isinstance(connection, Mapping) or not connection.get("host"):
            raise KubernetesError(
                "the node's record does not say how to reach its API server: it is no node of a "
                "Kubernetes provider"
            )
        self._host = str(connection["host"]).rstrip("/")
        self._headers = {"User-Agent": "nodepool-k8s"}
        if connection.get("token"):
            self._headers["Authorization"] = f"Bearer {connection['token']}"
        self._connector = Connector(ssl=_tls(connection), limit=0)

    async def close(self) -> None:
        """Close every connection; commands that run through it fail."""
        await self._connector.close()

    @asynccontextmanager
    async def websocket(
        self, path: str, query: Query, protocols: Sequence[str]
    ) -> AsyncIterator[WebSocket]:
        """Open a websocket."""
        url = URL(f"{self._host}{path}?{urlencode(query)}", encoded=True)
        async with opened(self._connector, url, protocols, self._headers) as socket:
            yield socket

    async def get(self, path: str) -> dict[str, Any]:
        """Read an object."""
        try:
            async with (
                aiohttp.ClientSession(
                    connector=self._connector,
                    connector_owner=False,
                    raise_for_status=_raise_refusal,
                    timeout=aiohttp.ClientTimeout(total=OPEN_SECONDS),
                ) as session,
                session.get(f"{self._host}{path}", headers=self._headers) as response,
            ):
                found: dict[str, Any] = await response.json(loads=loads)
                return found
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise unreachable(error) from error


def _tls(connection: Mapping[str, Any]) -> ssl.SSLContext | bool:
    """Verify with the record's CAs, with the system's if it has none, or not at all."""
    if connection.get("skiptls"):
        return False
    encoded = connection.get("ca_crt")
    if not encoded:
        return True
    try:
        # An empty text would load the system's CAs.
        pem = base64.b64decode(encoded).decode() or "nothing"
        context = ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, binascii.Error, ValueError, TypeError) as error:
        raise KubernetesError(
            f"the certificate authorities in the node's record cannot be used: {describe(error)}"
        ) from error
    # As kubectl does: authorities without the strict extensions are common in clusters.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
