"""An API server within the process: the real client calls it, and no socket is opened.

The test decides what it answers and what fails. It has lists in pages, watches, resource
versions, and a history of limited length.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import aiohttp
from kubernetes.aio.client import Configuration
from multidict import CIMultiDict
from yarl import URL

from nodepool_k8s.kubernetes.client import ApiClient


class Answer:
    """Stands for an ``aiohttp.ClientResponse``: a body, or chunks of a stream."""

    connection = None

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        pieces: AsyncIterator[bytes] | None = None,
    ) -> None:
        self.status = status
        self.reason = "Scripted"
        self.headers = CIMultiDict(headers or {})
        self._body = body
        self._pieces = pieces

    async def read(self) -> bytes:
        return self._body

    @property
    def content(self) -> Answer:
        return self

    async def iter_any(self) -> AsyncIterator[bytes]:
        if self._pieces is None:
            yield self._body
            return
        async for piece in self._pieces:
            yield piece

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


Handler = Callable[[str, URL, str], Awaitable[Answer]]
"""Method, URL and body; it may raise what aiohttp would."""


class _Asked(AbstractAsyncContextManager[Answer]):
    def __init__(self, answer: Awaitable[Answer]) -> None:
        self._answer = answer

    def __await__(self) -> Any:
        return self._answer.__await__()

    async def __aenter__(self) -> Answer:
        return await self._answer

    async def __aexit__(self, *_: object) -> None:
        return None


class _Session:
    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def request(self, method: str, url: URL, **given: Any) -> _Asked:
        return _Asked(self._handler(method, url, (given.get("data") or b"").decode()))

    async def close(self) -> None:
        return None


class ScriptedClient(ApiClient):
    """A client whose every request goes to ``handler``."""

    def __init__(self, handler: Handler) -> None:
        super().__init__("scripted", "scripted")
        self._handler = handler

    async def connect(self) -> None:
        self._configuration = Configuration(host="https://scripted.test")
        self._calls = self._streams = cast(aiohttp.ClientSession, _Session(self._handler))
        self._generation += 1


class Collection:
    """Objects of one kind with their history, as the API server keeps it."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.version = 100
        self.oldest = 100
        self.page = 500
        self.log: list[tuple[int, bytes]] = []
        self.faults: list[Answer | bytes | Exception | None] = []
        """What happens to the next requests, once each: another answer, a stray line in a watch, a
        failure, or nothing."""
        self.watches: set[asyncio.Queue[bytes | None]] = set()
        self._snapshots: dict[str, tuple[int, list[dict[str, Any]]]] = {}

    # --- what happens

    def put(self, key: str, raw: Any) -> None:
        """Create an object, or change it."""
        kind = "MODIFIED" if key in self.objects else "ADDED"
        self.objects[key] = raw
        self._happens(kind, raw)

    def remove(self, key: str) -> None:
        """Delete an object."""
        raw = self.objects.pop(key, None)
        if raw is not None:
            self._happens("DELETED", raw)

    def bookmark(self) -> None:
        """Send a bookmark to the watches."""
        line = _line("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})
        self.say(line)

    def say(self, line: bytes) -> None:
        """Send any line to every watch."""
        for watch in self.watches:
            watch.put_nowait(line)

    def cut(self) -> None:
        """End all watches."""
        for watch in self.watches:
            watch.put_nowait(None)

    def forget(self) -> None:
        """Drop the history: a client that is not up to date must list again."""
        self.oldest = self.version
        self.log.clear()
        self._snapshots.clear()

    def _happens(self, kind: str, raw: Any) -> None:
        self.version += 1
        metadata = raw.get("metadata") if isinstance(raw, dict) else None
        if isinstance(metadata, dict):
            metadata["resourceVersion"] = str(self.version)
        line = _line(kind, raw)
        self.log.append((self.version, line))
        self.say(line)

    # --- what is asked

    async def answer(self, url: URL) -> Answer:
        """Answer a list, or a watch."""
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        if isinstance(fault, Answer):
            return fault
        if "watch" in url.query:
            return self._watch(url.query["resourceVersion"], fault)
        return self._list(url.query.get("continue"))

    def _list(self, token: str | None) -> Answer:
        if token is None:
            version, left = self.version, list(self.objects.values())
        elif token in self._snapshots:
            version, left = self._snapshots.pop(token)
        else:
            return failure(410, "Expired")
        metadata = {"resourceVersion": str(version)}
        if len(left) > self.page:
            metadata["continue"] = f"{version}-{len(left)}"
            self._snapshots[metadata["continue"]] = (version, left[self.page :])
        page = {"metadata": metadata, "items": left[: self.page]}
        return Answer(200, json.dumps(page).encode())

    def _watch(self, version: str, first: bytes | None) -> Answer:
        if not version.isascii() or not version.isdecimal():
            return failure(400, "BadRequest")
        if int(version) > self.version:
            return failure(504, "Timeout")
        if int(version) < self.oldest:
            return failure(410, "Expired")
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        if first is not None:
            queue.put_nowait(first)
        for happened, line in self.log:
            if happened > int(version):
                queue.put_nowait(line)
        return Answer(200, pieces=self._follow(queue))

    async def _follow(self, queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
        self.watches.add(queue)
        try:
            while (line := await queue.get()) is not None:
                half = len(line) // 2
                yield line[:half]
                yield line[half:]
        finally:
            self.watches.discard(queue)


def failure(code: int, reason: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A Status, as the API server gives it."""
    body = {"kind": "Status", "code": code, "reason": reason, "message": "no"}
    return Answer(code, json.dumps(body).encode(), headers)


def _line(kind: str, raw: Any) -> bytes:
    return json.dumps({"type": kind, "object": raw}).encode() + b"\n"
