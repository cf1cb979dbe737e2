"""An API server of the tests' own: it answers what a test scripts."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from harness import kubeconfig

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeApi:
    """Answers by ``handler``; keeps what was asked."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.handler: Handler = self._nothing
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        return await self.handler(request)

    @staticmethod
    async def _nothing(request: web.Request) -> web.StreamResponse:
        return status(404, "NotFound", f"{request.path} is not scripted")


def status(
    code: int, reason: str, message: str = "", headers: dict[str, str] | None = None
) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code, headers=headers)


class Watched:
    """A collection that is listed and watched: pages for lists, scripts for watches.

    A watch sends its lines and then ends, or stays open where the script ends in
    ``HOLD``. Without a script left, it stays open.
    """

    HOLD = b"hold"

    def __init__(self) -> None:
        self.lists: list[list[dict[str, Any]]] = [[]]
        self.watches: list[list[bytes] | web.Response] = []
        self.listed = 0
        self.watched: list[dict[str, str]] = []
        self.asked = asyncio.Condition()
        self.closing = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return self._list(request)
        async with self.asked:
            self.watched.append(dict(request.query))
            self.asked.notify_all()
        script = self.watches.pop(0) if self.watches else [self.HOLD]
        if isinstance(script, web.Response):
            return script
        response = web.StreamResponse()
        await response.prepare(request)
        for line in script:
            if line is self.HOLD:
                await self.closing.wait()
            else:
                await response.write(line)
        return response

    def _list(self, request: web.Request) -> web.Response:
        pages = self.lists
        number = int(request.query.get("continue", "0"))
        self.listed += number == 0
        metadata = {"resourceVersion": str(1000 + self.listed)}
        if number + 1 < len(pages):
            metadata["continue"] = str(number + 1)
        return web.json_response({"metadata": metadata, "items": pages[number]})


def event(kind: str, raw: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": raw}).encode() + b"\n"


def raw_namespace(name: str, version: int = 1, uid: str = "", **metadata: Any) -> dict[str, Any]:
    return {
        "kind": "PartialObjectMetadata",
        "metadata": {
            "name": name,
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            **metadata,
        },
    }


def raw_pod(
    namespace: str,
    version: int = 1,
    phase: str = "Pending",
    ready: str = "False",
    host: str = "",
    **status: Any,
) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": namespace,
            "name": "fedora",
            "uid": f"uid-pod-{namespace}",
            "resourceVersion": str(version),
        },
        "spec": {
            "nodeName": host,
            "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler",
        },
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}], **status},
    }


def write_kube_config(path: Path, server: str, user: dict[str, Any], **cluster: Any) -> None:
    kubeconfig.write(path, "ctx", server, user, **cluster)
