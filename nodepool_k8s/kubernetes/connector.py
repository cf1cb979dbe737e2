"""Connections that are closed with their connector, whatever state they are in.

aiohttp ends TLS politely where a call is cancelled, and does not wait for the end: the
connection may outlive the connector, and the event loop.
"""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakSet

import aiohttp
from kubernetes.aio.client.rest import RESTClientObject


class Connector(aiohttp.TCPConnector):
    """aiohttp's connector, but closing it aborts every connection."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.transports: WeakSet[asyncio.Transport] = WeakSet()
        """Of all open connections, in use or not."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Any:
        """Get from the pool, or open, a connection."""
        connection = await super().connect(req, traces, timeout)
        if connection.transport is not None:
            self.transports.add(connection.transport)
        return connection

    async def close(self, *, abort_ssl: bool = True) -> None:
        """Close every connection, including those in a TLS shutdown."""
        for transport in list(self.transports):
            transport.abort()
        await super().close(abort_ssl=abort_ssl)


class RestClient(RESTClientObject):  # type: ignore[misc]
    """The official client's REST object, using this connector."""

    def session(self) -> aiohttp.ClientSession:
        """A session of aiohttp's, as the official client would use one."""
        session: aiohttp.ClientSession = self._create_pool_manager()
        return session

    def _create_connector(self) -> aiohttp.TCPConnector:
        # One of the two methods that subclasses are told to override.
        return Connector(limit=self.maxsize, ssl=self.ssl_context)
