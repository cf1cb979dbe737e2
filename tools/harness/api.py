"""A small client of the API server: JSON objects by path, for one account."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp

from harness.kubeconfig import Access

Object = dict[str, Any]

MERGE = "application/merge-patch+json"
JSON = "application/json"
CALL_S = 60.0
ERROR_LENGTH = 500
NOT_FOUND, CONFLICT = 404, 409


class ApiError(Exception):
    """The API server answered with an error."""

    def __init__(self, call: str, status: int, text: str) -> None:
        super().__init__(f"{call}: {status} {text[:ERROR_LENGTH]}")
        self.status = status


class ApiClient:
    """Calls with one account's rights. Raises ApiError, and aiohttp's errors."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.url = url.rstrip("/")
        self._session = session

    @classmethod
    @asynccontextmanager
    async def connected(cls, access: Access, connections: int = 0) -> AsyncIterator[Self]:
        """A client for the length of the block, with that many connections at most (0: any)."""
        async with open_session(access, connections) as session:
            yield cls(session, access.url)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = JSON,
        *,
        allow: tuple[int, ...] = (),
    ) -> bytes:
        """The body of the answer; an error status raises unless it is in ``allow``."""
        data = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": content_type}
        async with self._session.request(
            method, self.url + path, data=data, headers=headers
        ) as response:
            content = await response.read()
            if response.status >= 400 and response.status not in allow:
                text = content.decode(errors="replace")
                raise ApiError(f"{method} {path}", response.status, text)
            return content

    async def call(
        self, method: str, path: str, body: Any = None, content_type: str = JSON
    ) -> Object:
        """The object that is the answer."""
        answer: Object = json.loads(await self.request(method, path, body, content_type))
        return answer

    async def get(self, path: str) -> Object | None:
        """The object at a path; None if it does not exist."""
        try:
            return await self.call("GET", path)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return None

    async def watch(
        self, path: str, params: Mapping[str, str], quiet: float | None = None
    ) -> AsyncGenerator[tuple[str, Object]]:
        """Events of a watch, as type and object, until the server ends it.

        Raises TimeoutError after ``quiet`` seconds without an event.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_read=quiet)
        query = {**params, "watch": "1"}
        async with self._session.get(self.url + path, params=query, timeout=timeout) as response:
            if response.status >= 400:
                raise ApiError(f"watch {path}", response.status, await response.text())
            async for line in response.content:
                event = json.loads(line)
                yield event["type"], event["object"]


def open_session(access: Access, connections: int = 0) -> aiohttp.ClientSession:
    """A session to a context's API server, with that many connections at most (0: any)."""
    return aiohttp.ClientSession(
        headers=access.headers,
        connector=aiohttp.TCPConnector(ssl=access.tls, limit=connections),
        timeout=aiohttp.ClientTimeout(total=CALL_S),
    )
