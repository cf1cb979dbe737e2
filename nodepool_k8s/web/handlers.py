"""The handlers of each path. Everything is read-only, and without secrets."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Middleware

from nodepool_k8s import telemetry
from nodepool_k8s.errors import BadQuery
from nodepool_k8s.web import formats, page
from nodepool_k8s.web.cache import SECONDS, CachedResponse, ResponseCache
from nodepool_k8s.web.formats import Format
from nodepool_k8s.web.lists import LISTINGS, Listing, parse_query
from nodepool_k8s.web.source import LauncherSource, MirroredRecords
from nodepool_k8s.web.status import status_document

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TEXT = "text/plain; charset=UTF-8"
HTML = "text/html; charset=UTF-8"
JSON = "application/json"

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""The page loads nothing and runs nothing."""


def application(source: LauncherSource) -> web.Application:
    """The application with all its paths."""
    handlers = Handlers(source)
    paths: dict[str, Handler] = {
        "/": handlers.page,
        "/api/status": handlers.status,
        "/metrics": handlers.metrics,
        "/ready": handlers.ready,
        "/live": handlers.live,
    }
    for path, listing in LISTINGS.items():
        paths[path] = partial(handlers.listing, listing)
    app = web.Application(middlewares=[_explain(", ".join(paths))])
    app.on_response_prepare.append(_add_headers)
    for path, handler in paths.items():
        app.router.add_get(path, handler)
    return app


class Handlers:
    """The handlers that depend on the launcher."""

    def __init__(self, source: LauncherSource) -> None:
        self._source = source
        self._cache = ResponseCache()

    async def live(self, request: web.Request) -> web.Response:
        """``OK``: that it is answered shows that the event loop runs."""
        return _uncached("OK\n")

    async def ready(self, request: web.Request) -> web.Response:
        """``OK``, or 503 with why not."""
        obstacles = self._source.obstacles()
        if obstacles:
            return _uncached("".join(f"{each}\n" for each in obstacles), status=503)
        return _uncached("OK")

    async def metrics(self, request: web.Request) -> web.Response:
        """Metrics for Prometheus."""
        headers = {"Content-Type": telemetry.CONTENT_TYPE, "Cache-Control": "no-store"}
        return web.Response(body=telemetry.render(), headers=headers)

    async def listing(self, listing: Listing, request: web.Request) -> web.StreamResponse:
        """One of Nodepool's lists, as JSON or as text."""
        accept = ",".join(request.headers.getall("Accept", ()))
        form = formats.wanted_format(accept)
        if form is None:
            raise web.HTTPNotAcceptable(
                text=f"{request.path} is available as: {formats.OFFERED}; the Accept header asks "
                f"for {accept[:100]!a}\n"
            )
        query = parse_query(listing, request.query.items())
        records = self._records()
        columns = query.columns
        if columns is None and form is Format.TEXT:
            columns = listing.columns

        async def make() -> bytes:
            rows = listing.rows(self._source, records, query.chosen)
            return await formats.encoded(rows, columns, form)

        answer = await self._cache.get((request.path, form, query.key), make)
        return _cached(request, answer, TEXT if form is Format.TEXT else JSON)

    async def status(self, request: web.Request) -> web.StreamResponse:
        """What the launcher is doing, as JSON."""

        async def make() -> bytes:
            return formats.dump(status_document(self._source.snapshot()))

        return _cached(request, await self._cache.get(request.path, make), JSON)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """The same for people."""

        async def make() -> bytes:
            shown = page.render(self._source.snapshot(), tuple(LISTINGS))
            return shown.encode(errors="backslashreplace")

        response = _cached(request, await self._cache.get(request.path, make), HTML)
        response.headers["Content-Security-Policy"] = PAGE_POLICY
        return response

    def _records(self) -> MirroredRecords:
        records = self._source.records
        if records is None:
            why = "".join(f"{each}\n" for each in self._source.obstacles())
            raise web.HTTPServiceUnavailable(text=why)
        return records


# --- responses ---------------------------------------------------------------------------


def _uncached(text: str, status: int = 200) -> web.Response:
    headers = {"Content-Type": TEXT, "Cache-Control": "no-store"}
    return web.Response(body=text.encode(errors="backslashreplace"), status=status, headers=headers)


def _cached(request: web.Request, cached: CachedResponse, content: str) -> web.Response:
    """The response, or 304 where it has not changed since the client's copy."""
    made = datetime.fromtimestamp(int(cached.made), UTC)
    since = request.if_modified_since
    unchanged = since is not None and made <= since
    response = web.Response(status=304) if unchanged else web.Response(body=cached.body)
    response.headers["Content-Type"] = content
    response.headers["Cache-Control"] = f"public, max-age={SECONDS:g}"
    response.headers["Vary"] = "Accept"
    response.last_modified = cached.made
    response.headers["Expires"] = web_date(cached.made + SECONDS)
    return response


def web_date(timestamp: float) -> str:
    """A time as HTTP has it."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    headers: Mapping[str, str] = {
        # Nodepool's dashboards are pages of other servers.
        "Access-Control-Allow-Origin": "*",
        "X-Content-Type-Options": "nosniff",
        "Server": "nodepool-k8s",
    }
    response.headers.update(headers)


def _explain(paths: str) -> Middleware:
    """Say with each refusal what is valid."""

    @web.middleware
    async def explain(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except BadQuery as error:
            return _uncached(f"{error}\n", status=400)
        except web.HTTPNotFound:
            return _uncached(f"no such path; there are: {paths}\n", status=404)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            response = _uncached(f"read-only; allowed methods: {allowed}\n", status=405)
            response.headers["Allow"] = allowed
            return response
        except web.HTTPException as error:
            return _uncached(error.text or "", status=error.status)
        except Exception:
            log.exception("The response to %s %s failed", request.method, request.path)
            return _uncached("internal error; see the launcher's log\n", status=500)

    return explain
