"""What a requestor does with a node: calls to the API server with the node's own token.

Built from nothing but the node's record, as Zuul has it: `host`, `token` and `ca_crt` of its
`connection_port`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from harness import kubeconfig
from harness.api import ApiClient, ApiError

from demonstration.errors import DemoError

EXEC_PROTOCOL = "v4.channel.k8s.io"
STDOUT, STDERR, STATUS = 1, 2, 3
"""Channels of that protocol: the first byte of each message."""


class NodeApi(ApiClient):
    """The API server as the holder of one node sees it."""

    namespace = ""

    @classmethod
    @asynccontextmanager
    async def of(cls, connection: Mapping[str, Any]) -> AsyncIterator[NodeApi]:
        """Open connections with what the node's record says."""
        async with cls.connected(access(connection)) as api:
            api.namespace = str(connection["namespace"])
            yield api

    async def pods(self) -> list[str]:
        """The pods of the node's namespace, each with its phase."""
        listed = await self.call("GET", f"/api/v1/namespaces/{self.namespace}/pods")
        return [f"{pod['metadata']['name']} {pod['status']['phase']}" for pod in listed["items"]]

    async def status_elsewhere(self, namespace: str) -> int:
        """The HTTP status of listing another namespace's pods."""
        try:
            await self.call("GET", f"/api/v1/namespaces/{namespace}/pods")
        except ApiError as error:
            return error.status
        return 200

    async def create_config_map(self, name: str) -> None:
        """Create a ConfigMap in the node's namespace."""
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        await self.call("POST", f"/api/v1/namespaces/{self.namespace}/configmaps", body)

    async def run(self, pod: str, command: Sequence[str]) -> str:
        """Run a command in the pod over a websocket; what it printed."""
        query = [("stdout", "1"), ("stderr", "1"), *(("command", part) for part in command)]
        url = f"{self.url}/api/v1/namespaces/{self.namespace}/pods/{pod}/exec"
        printed, status = bytearray(), b""
        async with self._session.ws_connect(url, params=query, protocols=[EXEC_PROTOCOL]) as socket:
            async for message in socket:
                channel, data = message.data[0], message.data[1:]
                if channel in (STDOUT, STDERR):
                    printed += data
                elif channel == STATUS:
                    status = data
        if json.loads(status or b"{}").get("status") != "Success":
            raise DemoError(f"the command in the pod failed: {status.decode()} {printed.decode()}")
        return printed.decode()


def access(connection: Mapping[str, Any]) -> kubeconfig.Access:
    """How to reach the API server, by what the node's record says."""
    authority = base64.b64decode(connection.get("ca_crt") or "")
    tls = False if connection["skiptls"] else kubeconfig.tls(authority)
    headers = {"Authorization": f"Bearer {connection['token']}"}
    return kubeconfig.Access(str(connection["host"]), tls, headers)
