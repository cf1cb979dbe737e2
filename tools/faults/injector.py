"""A reverse proxy in front of the API server that answers some calls with errors.

It speaks plain HTTP to the launcher and TLS to the API server, with the account of the
cluster's kubeconfig.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import aiohttp
from aiohttp import hdrs, web
from yarl import URL

HEADERS = frozenset({"content-type", "accept"})
"""The headers that are forwarded."""
REASONS = {
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}
ERRORS = tuple(REASONS)


class Injector:
    """One launcher's way to the API server."""

    def __init__(self, session: aiohttp.ClientSession, server: str, rng: random.Random) -> None:
        self._session = session
        self._server = server
        self._rng = rng
        self._runner: web.AppRunner | None = None
        self._watches: set[asyncio.Task[object]] = set()
        self.share = 0.0
        """The share of calls that are answered with an error."""
        self.lost = 0.0
        """The share of calls that are executed and whose answers are lost."""
        self.answered: Counter[int] = Counter()
        """Injected errors by status; 0 for a lost answer."""
        self.address = ""
        """``HOST:PORT``."""

    async def start(self) -> Injector:
        """Listen."""
        application = web.Application(client_max_size=2**24)
        application.router.add_route(hdrs.METH_ANY, "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        return self

    async def stop(self) -> None:
        """Stop listening."""
        await self.cut_watches()
        if self._runner is not None:
            await self._runner.cleanup()

    async def cut_watches(self) -> int:
        """End every watch, in the middle of a line or between two; how many there were."""
        watches = set(self._watches)
        for each in watches:
            each.cancel()
        if watches:
            await asyncio.wait(watches)
        return len(watches)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        # The API server never answers a GET with 409.
        errors = [each for each in ERRORS if request.method != "GET" or each != 409]
        if self._rng.random() < self.share:
            status = self._rng.choice(errors)
            self.answered[status] += 1
            return _error(status)
        loses = self._rng.random() < self.lost
        try:
            return await self._forward(request, loses=loses)
        except (aiohttp.ClientError, OSError):
            # The API server is down: this proxy appears to be down, too.
            return _abort(request)

    async def _forward(self, request: web.Request, *, loses: bool) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if _kept(name)}
        body = await request.read()
        watching = "watch" in request.query
        async with self._session.request(
            request.method,
            URL(self._server + request.raw_path, encoded=True),
            data=body or None,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None if watching else 60),
        ) as answer:
            if watching:
                return await self._stream(request, answer)
            data = await answer.read()
            if loses:
                self.answered[0] += 1
                return _abort(request)
            given = {name: value for name, value in answer.headers.items() if _kept(name)}
            return web.Response(status=answer.status, body=data, headers=given)

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status)
        response.content_type = answer.content_type
        await response.prepare(request)
        pump = asyncio.ensure_future(_pump(answer, response))
        self._watches.add(pump)
        try:
            await asyncio.wait({pump})
        finally:
            self._watches.discard(pump)
            pump.cancel()
        _abort(request)
        return response


async def _pump(answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
    async for chunk in answer.content.iter_any():
        await response.write(chunk)


def _kept(name: str) -> bool:
    return name.lower() in HEADERS or name.lower() == "retry-after"


def _abort(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)


def _error(status: int) -> web.Response:
    document = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": REASONS[status],
        "message": f"{REASONS[status]}, injected by the fault harness",
        "code": status,
    }
    headers = {"Retry-After": "1"} if status == 429 else {}
    return web.json_response(document, status=status, headers=headers)
