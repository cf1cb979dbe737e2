"""Connections that are gone when their connector is closed, however they were left.

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
    """aiohttp's, but closing it hangs up on everybody."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.transports: WeakSet[asyncio.Transport] = WeakSet()
        """Of all connections that there are still, in use or not."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Any:
        """Get from the pool, or open, a connection."""
        connection = await super().connect(req, traces, timeout)
        if connection.transport is not None:
            self.transports.add(connection.transport)
        return connection

    async def close(self, *, abort_ssl: bool = True) -> None:
        """Close every connection, also those whose polite end has not come yet."""
        for transport in list(self.transports):
            transport.abort()
        await super().close(abort_ssl=abort_ssl)


class RestClient(RESTClientObject):  # type: ignore[misc]
    """The official client's REST object, over such connections."""

    def session(self) -> aiohttp.ClientSession:
        """A session of aiohttp's, as the official client would use one."""
        session: aiohttp.ClientSession = self._create_pool_manager()
        return session

    def _create_connector(self) -> aiohttp.TCPConnector:
        # One of the two methods that subclasses are told to override.
        return Connector(limit=self.maxsize, ssl=self.ssl_context)
