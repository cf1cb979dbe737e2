"""The cluster as its admin sees it: plain JSON, straight from the API server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import aiohttp
from harness.api import CONFLICT, MERGE, NOT_FOUND, ApiClient, ApiError, Object

DEPLOYMENT = "nodepool-k8s/deployment"
MANUAL = {"nodepool-k8s.test/manual": "true"}
"""On a pod, it keeps the fake node from making it ready: the test plays the kubelet."""


class Admin(ApiClient):
    """The admin of a local cluster, who also does what kubelets and others would do."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        super().__init__(session, url)
        self._loop = asyncio.get_running_loop()

    def call_from_thread(self, method: str, path: str) -> Object:
        """Call from another thread than the event loop's."""
        return asyncio.run_coroutine_threadsafe(self.call(method, path), self._loop).result()

    # --- what a launcher made ----------------------------------------------------------------

    async def namespaces(self, deployment: str) -> list[Object]:
        """The namespaces of a deployment that are not being deleted."""
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
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise

    async def delete_pod(self, namespace: str, name: str = "pod") -> None:
        await self.call("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}")

    async def create_sources(
        self, namespace: str, *, secret: Mapping[str, str], settings: Mapping[str, str]
    ) -> None:
        """Create a namespace with a Secret ``creds`` and a ConfigMap ``settings``."""
        await self.create_namespace(namespace, {})
        creds = {"metadata": {"name": "creds"}, "stringData": secret}
        await self.call("POST", f"/api/v1/namespaces/{namespace}/secrets", creds)
        held = {"metadata": {"name": "settings"}, "data": settings}
        await self.call("POST", f"/api/v1/namespaces/{namespace}/configmaps", held)

    async def set_status(self, namespace: str, status: Object, name: str = "pod") -> None:
        """Set a pod's status, as its kubelet would."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
        # Without a time the disruption controller takes its condition for an old one, and
        # removes it.
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
