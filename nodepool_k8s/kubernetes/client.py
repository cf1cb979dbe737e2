"""Calls to one cluster's API server: plain dicts in, plain dicts out, our errors.

Owns the HTTP sessions and the credentials they carry. Knows nothing of nodes, retries
nothing but an expired credential (once), and never logs a body or a header: both may
hold a token.

The requests go through the session of the official client's REST object, which brings
TLS, client certificates and proxies, with the headers that the official client would
compute. Its own ``request`` and its model objects are left out: together they cost
three times the CPU for the same answer.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import Configuration
from yarl import URL

from nodepool_k8s import telemetry
from nodepool_k8s.errors import ApiError, ClusterUnreachable, KubernetesError
from nodepool_k8s.kubernetes import credentials, exec
from nodepool_k8s.kubernetes.connector import RestClient
from nodepool_k8s.kubernetes.responses import api_error, loads, unreachable

log = logging.getLogger(__name__)

CALL_TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 10.0
WATCH_ANSWER_SECONDS = 15.0
"""A watch is answered at once, though its first event may be a long time coming."""
CONNECTIONS = 64

METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

Object = dict[str, Any]
Query = Mapping[str, str | int]

_UNREACHABLE: Final = (aiohttp.ClientError, OSError, TimeoutError)


class ApiClient:
    """One cluster's API server, as one context of kube/config reaches it."""

    def __init__(self, context: str | None, provider: str = "") -> None:
        self._context = context
        self.provider = provider
        """The provider's name, a label of the metrics of calls."""
        self._configuration: Configuration | None = None
        self._calls: aiohttp.ClientSession | None = None
        self._streams: aiohttp.ClientSession | None = None
        self._bare: aiohttp.ClientSession | None = None
        """Without a client certificate, which would take precedence over any token."""
        self._retired: list[aiohttp.ClientSession] = []
        self._watching: set[aiohttp.ClientResponse] = set()
        self._reloading = asyncio.Lock()
        self._generation = 0
        self.authorities: str | None = None
        """PEM of the CAs that the server's certificate is verified with; None: the system's."""

    async def connect(self) -> None:
        """Read the credentials and open the sessions; nothing is asked of the server yet."""
        configuration = await credentials.load(self._context)
        try:
            authorities = credentials.ca_certificates(configuration)
            calls = _session(configuration, CONNECTIONS, CALL_TIMEOUT_SECONDS)
            # Watches hold their connection for minutes: they must not use up the calls'.
            streams = _session(configuration, 0, None)
        except (OSError, ValueError) as error:
            where = f"context {self._context or '(current)'}"
            raise KubernetesError(f"{where}: a certificate cannot be used: {error}") from error
        self._configuration, self.authorities = configuration, authorities
        self._calls, self._streams, self._bare = calls, streams, None
        self._generation += 1

    async def close(self) -> None:
        """Close every connection; calls under way fail."""
        sessions = self._sessions()
        self._calls = self._streams = self._bare = None
        await self._close_all([*sessions, *self._retired])

    def _sessions(self) -> list[aiohttp.ClientSession]:
        return [each for each in (self._calls, self._streams, self._bare) if each is not None]

    @property
    def configuration(self) -> Configuration:
        """The official client's configuration that is in use."""
        if self._configuration is None:
            raise KubernetesError("the client is not connected")
        return self._configuration

    async def get(self, path: str, query: Query | None = None, accept: str = JSON) -> Object:
        """Read an object or a list."""
        return _parsed(await self._call("GET", path, query=query, accept=accept))

    async def post(self, path: str, body: Mapping[str, Any], query: Query | None = None) -> Object:
        """Create an object."""
        return _parsed(await self._call("POST", path, query=query, body=body))

    async def patch(self, path: str, body: Mapping[str, Any]) -> Object:
        """Change an object by a merge patch."""
        return _parsed(await self._call("PATCH", path, body=body, content=MERGE_PATCH))

    async def delete(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Delete an object, or a collection; what the server answers is not read."""
        await self._call("DELETE", path, body=body)

    @asynccontextmanager
    async def stream(
        self, path: str, query: Query, accept: str, silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a watch: an iterator over the lines of the answer, of any length.

        It raises ``ClusterUnreachable`` when nothing came for ``silence`` seconds.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_SECONDS, sock_read=silence
        )
        generation = self._generation
        try:
            session, headers = await self._ready(self._streams)
            headers["Accept"] = accept
            async with asyncio.timeout(WATCH_ANSWER_SECONDS):
                response = await session.request(
                    "GET", self._url(path, query), headers=headers, timeout=timeout, **self._extra()
                )
            async with response:
                if response.status >= 400:
                    if response.status == 401:
                        await self._reload(generation)
                    async with asyncio.timeout(WATCH_ANSWER_SECONDS):
                        answer = await response.read()
                    raise api_error(response, answer)
                telemetry.watch_opened(self.provider, path)
                self._watching.add(response)
                try:
                    yield _lines(response.content)
                finally:
                    self._watching.discard(response)
                    _hang_up(response)
        except _UNREACHABLE as error:
            raise unreachable(error) from error

    @asynccontextmanager
    async def websocket(
        self, path: str, query: exec.Query, protocols: Sequence[str]
    ) -> AsyncIterator[exec.WebSocket]:
        """Open a websocket, as ``exec.execute`` needs one."""
        generation = self._generation
        session, headers = await self._ready(self._streams)
        assert session.connector is not None
        url = self._url(path, query)
        try:
            async with exec.opened(
                session.connector, url, protocols, headers, **self._extra()
            ) as socket:
                yield socket
        except ApiError as error:
            if error.status == 401:
                await self._reload(generation)
            raise

    def as_bearer(self, token: str) -> AsBearer:
        """An API that opens websockets with that token."""
        return AsBearer(self, token)

    @asynccontextmanager
    async def bearers_websocket(
        self, token: str, path: str, query: exec.Query, protocols: Sequence[str]
    ) -> AsyncIterator[exec.WebSocket]:
        """Open a websocket with that token, and with no credentials of ours."""
        session, headers = await self._ready(self._streams)
        if self.configuration.cert_file:
            if self._bare is None:
                bare = copy.copy(self.configuration)
                bare.cert_file = bare.key_file = None
                self._bare = _session(bare, 0, None)
            session = self._bare
        assert session.connector is not None
        headers["Authorization"] = f"Bearer {token}"
        url = self._url(path, query)
        async with exec.opened(
            session.connector, url, protocols, headers, **self._extra()
        ) as socket:
            yield socket

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        accept: str = JSON,
        content: str = JSON,
    ) -> bytes:
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        generation = self._generation
        try:
            return await self._once(method, path, query, data, accept, content)
        except ApiError as error:
            if error.status != 401:
                raise
        await self._reload(generation)
        return await self._once(method, path, query, data, accept, content)

    async def _once(
        self,
        method: str,
        path: str,
        query: Query | None,
        data: bytes | None,
        accept: str,
        content: str,
    ) -> bytes:
        status: int | None = None
        began = time.monotonic()
        try:
            session, headers = await self._ready(self._calls)
            headers["Accept"] = accept
            if data is not None:
                headers["Content-Type"] = content
            async with session.request(
                method, self._url(path, query), data=data, headers=headers, **self._extra()
            ) as response:
                answer = await response.read()
                status = response.status
                if response.status >= 400:
                    raise api_error(response, answer)
                return answer
        except _UNREACHABLE as error:
            if isinstance(error, TimeoutError):
                self._doubt_watches()
            raise unreachable(error) from error
        finally:
            seconds = time.monotonic() - began
            telemetry.api_called(self.provider, method, path, status, seconds)

    def _doubt_watches(self) -> None:
        """Close all watches: a server that died leaves them open and silent.

        Opening them again shows whether the server answers.
        """
        for response in self._watching:
            _hang_up(response)

    async def _ready(
        self, session: aiohttp.ClientSession | None
    ) -> tuple[aiohttp.ClientSession, dict[str, str]]:
        """The session and the headers of a request, with a token that is fresh."""
        if session is None:
            raise ClusterUnreachable("the connection to the cluster is closed")
        headers: dict[str, str] = {}
        # The hook behind this re-reads the in-cluster token, which Kubernetes rotates.
        token = await self.configuration.get_api_key_with_prefix("BearerToken", "authorization")
        if token:
            headers["Authorization"] = token
        return session, headers

    def _url(self, path: str, query: Query | exec.Query | None) -> URL:
        text = f"{self.configuration.host}{path}"
        return URL(f"{text}?{urlencode(query)}" if query else text, encoded=True)

    def _extra(self) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if self.configuration.proxy:
            extra["proxy"] = self.configuration.proxy
        if self.configuration.tls_server_name:
            extra["server_hostname"] = self.configuration.tls_server_name
        return extra

    async def _reload(self, generation: int) -> None:
        """Read the credentials again, once for all calls that were refused together."""
        async with self._reloading:
            if generation != self._generation or self._calls is None:
                return
            log.info("The cluster refused the credentials, reading them again")
            # Calls and watches under way keep the sessions they began with, so those are
            # closed one reload later.
            await self._close_all(self._retired)
            self._retired = self._sessions()
            await self.connect()

    @staticmethod
    async def _close_all(sessions: list[aiohttp.ClientSession]) -> None:
        # All of them, even if the caller is cancelled at the first.
        await asyncio.shield(asyncio.gather(*(session.close() for session in sessions)))


class AsBearer:
    """The API server as the owner of one token; reads use the launcher's credentials."""

    def __init__(self, client: ApiClient, token: str) -> None:
        self._client = client
        self._token = token

    def websocket(
        self, path: str, query: exec.Query, protocols: Sequence[str]
    ) -> AbstractAsyncContextManager[exec.WebSocket]:
        """Open a websocket."""
        return self._client.bearers_websocket(self._token, path, query, protocols)

    async def get(self, path: str) -> Object:
        """Read an object."""
        return await self._client.get(path)


def _session(
    configuration: Configuration, connections: int, timeout: float | None
) -> aiohttp.ClientSession:
    configuration.connection_pool_maxsize = connections
    configuration.client_session_kwargs = {
        # The environment was asked once, by credentials; cookies mean nothing here.
        "trust_env": False,
        "cookie_jar": aiohttp.DummyCookieJar(),
        "timeout": aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT_SECONDS),
        "headers": {"User-Agent": "nodepool-k8s"},
    }
    return RestClient(configuration).session()


def _hang_up(response: aiohttp.ClientResponse) -> None:
    """Drop a watch that has not ended; a TLS shutdown could outlive the event loop."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Cut the stream into lines; aiohttp's own readline refuses long ones."""
    rest = bytearray()
    async for chunk in content.iter_any():
        if b"\n" not in chunk:
            rest += chunk
            continue
        head, *middle, tail = chunk.split(b"\n")
        yield bytes(rest) + head
        for line in middle:
            yield line
        rest = bytearray(tail)


def _parsed(answer: bytes) -> Object:
    try:
        parsed = loads(answer)
    except ValueError as error:
        raise ClusterUnreachable("the answer is not JSON: is a proxy in the way?") from error
    if not isinstance(parsed, dict):
        raise ClusterUnreachable("the answer is not an object: is a proxy in the way?")
    return parsed
