"""The cluster as its admin sees it: plain JSON, straight from the API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config

Object = dict[str, Any]

DEPLOYMENT = "nodepool-k8s/deployment"
MANUAL = {"nodepool-k8s.test/manual": "true"}
"""On a pod, it keeps the fake node from making it ready: the test plays the kubelet."""
MERGE = "application/merge-patch+json"


class Refused(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status


class Admin:
    """Calls with the rights of one kubeconfig's context, or of a token."""

    def __init__(self, kubeconfig: Path, context: str) -> None:
        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), context, client_configuration=settings)
        self.url = str(settings.host)
        self.ca = str(settings.ssl_ca_cert)
        self._headers: dict[str, str] = {}
        self._pool = urllib3.PoolManager(
            ca_certs=self.ca,
            cert_file=settings.cert_file,
            key_file=settings.key_file,
            maxsize=8,
            retries=False,
        )

    def close(self) -> None:
        self._pool.clear()

    async def call(
        self, method: str, path: str, body: Object | None = None, content: str = "application/json"
    ) -> Object:
        return await asyncio.to_thread(self.call_now, method, path, body, content)

    def call_now(
        self, method: str, path: str, body: Object | None = None, content: str = "application/json"
    ) -> Object:
        answer = self._pool.request(
            method,
            self.url + path,
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": content, **self._headers},
        )
        if answer.status >= 400:
            raise Refused(answer.status, answer.data.decode(errors="replace")[:500])
        found: Object = json.loads(answer.data)
        return found

    async def get(self, path: str) -> Object | None:
        """The object there; None where there is none."""
        try:
            return await self.call("GET", path)
        except Refused as refusal:
            if refusal.status != 404:
                raise
            return None

    async def text(self, path: str) -> str:
        """What is there that is no object, such as a Service's page."""
        answer = await asyncio.to_thread(
            self._pool.request, "GET", self.url + path, headers=self._headers
        )
        text = answer.data.decode(errors="replace")
        if answer.status >= 400:
            raise Refused(answer.status, text[:500])
        return text

    # --- what a launcher made ----------------------------------------------------------------

    async def namespaces(self, deployment: str) -> list[Object]:
        """The namespaces of a deployment that are not on their way out."""
        found = await self.call(
            "GET", f"/api/v1/namespaces?labelSelector={DEPLOYMENT}={deployment}"
        )
        return [entry for entry in found["items"] if "deletionTimestamp" not in entry["metadata"]]

    async def namespace(self, name: str) -> Object | None:
        return await self.get(f"/api/v1/namespaces/{name}")

    async def pods(self, namespace: str) -> list[Object]:
        found: list[Object] = (await self.call("GET", f"/api/v1/namespaces/{namespace}/pods"))[
            "items"
        ]
        return found

    async def pod(self, namespace: str, name: str = "pod") -> Object | None:
        return await self.get(f"/api/v1/namespaces/{namespace}/pods/{name}")

    # --- playing the kubelet, and others ----------------------------------------------------

    async def create_namespace(self, name: str, labels: dict[str, str]) -> None:
        metadata = {"name": name, "labels": labels}
        await self.call("POST", "/api/v1/namespaces", {"metadata": metadata})

    async def delete_namespace(self, name: str) -> None:
        try:
            await self.call("DELETE", f"/api/v1/namespaces/{name}")
        except Refused as refusal:
            if refusal.status not in (404, 409):
                raise

    async def delete_pod(self, namespace: str, name: str = "pod") -> None:
        await self.call("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}")

    async def create_sources(
        self, namespace: str, *, secret: Mapping[str, str], settings: Mapping[str, str]
    ) -> None:
        """Make a namespace with a Secret ``creds`` and a ConfigMap ``settings``."""
        await self.create_namespace(namespace, {})
        creds = {"metadata": {"name": "creds"}, "stringData": secret}
        await self.call("POST", f"/api/v1/namespaces/{namespace}/secrets", creds)
        held = {"metadata": {"name": "settings"}, "data": settings}
        await self.call("POST", f"/api/v1/namespaces/{namespace}/configmaps", held)

    async def set_status(self, namespace: str, status: Object, name: str = "pod") -> None:
        """Say about a pod what its kubelet would say."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
        # Without a time the disruption controller takes a condition of its own kind for an old
        # one, and takes it back.
        told = status.get("conditions")
        if told:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            stamped = [{"lastTransitionTime": now, **condition} for condition in told]
            status = {**status, "conditions": stamped}
        await self.call("PATCH", path, {"status": status}, MERGE)

    async def make_ready(self, namespace: str, name: str = "pod") -> None:
        await self.set_status(namespace, running(ready=True), name)


def running(*, ready: bool) -> Object:
    """The status of a pod that runs."""
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {"phase": "Running", "conditions": [condition]}


def waiting(reason: str, message: str = "", container: str = "pod") -> Object:
    """The status of a pod whose container cannot start."""
    return {
        "phase": "Pending",
        "containerStatuses": [
            {
                "name": container,
                "image": "",
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": message}},
            }
        ],
    }
