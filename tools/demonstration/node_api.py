"""What a requestor does with a node: calls to the API server with the node's own token.

Built from nothing but the node's record, as Zuul has it: `host`, `token` and `ca_crt` of its
`connection_port`.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from demonstration.errors import DemoError

EXEC_PROTOCOL = "v4.channel.k8s.io"
STDOUT, STDERR, STATUS = 1, 2, 3
"""Channels of that protocol: the first byte of each message."""
CALL_SECONDS = 30.0


class NodeApi:
    """The API server as the holder of one node sees it."""

    def __init__(self, http: aiohttp.ClientSession, connection: Mapping[str, Any]) -> None:
        self._http = http
        self._host = str(connection["host"]).rstrip("/")
        self.namespace = str(connection["namespace"])

    @classmethod
    @asynccontextmanager
    async def of(cls, connection: Mapping[str, Any]) -> AsyncIterator[NodeApi]:
        """Open connections with what the node's record says."""
        async with aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {connection['token']}"},
            connector=aiohttp.TCPConnector(ssl=tls(connection)),
            timeout=aiohttp.ClientTimeout(total=CALL_SECONDS),
        ) as http:
            yield cls(http, connection)

    async def pods(self) -> list[str]:
        """The pods of the node's namespace, each with its phase."""
        status, answer = await self._call("GET", self.namespace, "pods")
        if status != 200:
            raise DemoError(f"listing pods with the node's token: {status} {answer.get('message')}")
        return [f"{pod['metadata']['name']} {pod['status']['phase']}" for pod in answer["items"]]

    async def status_elsewhere(self, namespace: str) -> int:
        """The HTTP status of listing another namespace's pods."""
        status, _ = await self._call("GET", namespace, "pods")
        return status

    async def create_config_map(self, name: str) -> None:
        """Create a ConfigMap in the node's namespace."""
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        status, answer = await self._call("POST", self.namespace, "configmaps", body)
        if status != 201:
            raise DemoError(f"creating a ConfigMap with the node's token: {answer.get('message')}")

    async def run(self, pod: str, command: Sequence[str]) -> str:
        """Run a command in the pod over a websocket; what it printed."""
        query = [("stdout", "1"), ("stderr", "1"), *(("command", part) for part in command)]
        path = f"{self._host}/api/v1/namespaces/{self.namespace}/pods/{pod}/exec"
        printed, status = bytearray(), b""
        async with self._http.ws_connect(path, params=query, protocols=[EXEC_PROTOCOL]) as socket:
            async for message in socket:
                channel, data = message.data[0], message.data[1:]
                if channel in (STDOUT, STDERR):
                    printed += data
                elif channel == STATUS:
                    status = data
        if json.loads(status or b"{}").get("status") != "Success":
            raise DemoError(f"the command in the pod failed: {status.decode()} {printed.decode()}")
        return printed.decode()

    async def _call(
        self, method: str, namespace: str, resource: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        url = f"{self._host}/api/v1/namespaces/{namespace}/{resource}"
        async with self._http.request(method, url, json=body) as response:
            return response.status, await response.json()


def tls(connection: Mapping[str, Any]) -> ssl.SSLContext | bool:
    """How to check the API server's certificate, by what the node's record says."""
    if connection["skiptls"]:
        return False
    encoded = connection.get("ca_crt")
    authorities = base64.b64decode(encoded).decode("ascii") if encoded else None
    context = ssl.create_default_context(cadata=authorities)
    # As kubectl does: authorities without the strict extensions are common in clusters.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
