"""The floor: a node's objects straight at the API server, and nothing else.

No ZooKeeper, no quota, no record, no retry: what remains is what the cluster itself takes,
so no launcher can be faster. It runs as a worker of its own (see ``workers``), which also
empties the cluster between measurements.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import aiohttp
from harness import kubeconfig
from harness.api import CONFLICT, NOT_FOUND, ApiClient, ApiError

from benchmark import workers
from benchmark.errors import BenchmarkError

PREFIX = "bench-"
"""The prefix of all of a benchmark's namespaces: the floor's, and by their pool the launchers'."""
MARK = "bench-floor"
ROLE = "bench-floor"
WORKER = "zuul-worker"

IN_FLIGHT = 16
"""Nodes created concurrently in a burst, not counting the wait for pods. Suits two cores."""
CONNECTIONS = 128
"""Enough for what is in flight and for the pods that admission holds up."""
TOKEN_S = 7 * 24 * 3600
POLL_S = 0.5
PODS = "/api/v1/pods"

RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]},
]


class PodWatch:
    """One watch on the floor's pods, which sets events when they become ready."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._waiting: dict[str, asyncio.Event] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch from now on until the block ends."""
        listed = await self._api.call("GET", f"{PODS}?labelSelector={MARK}&limit=1")
        version = listed["metadata"]["resourceVersion"]
        params = {"labelSelector": MARK, "resourceVersion": version}
        async with contextlib.aclosing(self._api.watch(PODS, params)) as events:
            task = asyncio.create_task(self._read(events))
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def expect(self, namespace: str) -> asyncio.Event:
        """Set when that namespace's pod is ready."""
        return self._waiting.setdefault(namespace, asyncio.Event())

    async def _read(self, events: AsyncIterator[tuple[str, dict[str, Any]]]) -> None:
        async for _, pod in events:
            waiting = self._waiting.get(pod["metadata"].get("namespace", ""))
            if waiting is not None and _is_ready(pod):
                waiting.set()


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


class Floor:
    """Creates nodes' objects, measures the time, and removes them."""

    def __init__(self, api: ApiClient, image: str, in_flight: int) -> None:
        self._api = api
        self._image = image
        self._gate = asyncio.Semaphore(in_flight)
        self._pods = PodWatch(api)
        self._serial = itertools.count()

    async def prepare(self) -> None:
        """The ClusterRole that every node's RoleBinding names."""
        body = {"metadata": {"name": ROLE}, "rules": RULES}
        await self._create("/apis/rbac.authorization.k8s.io/v1/clusterroles", body)

    async def retire(self) -> None:
        """Remove that ClusterRole."""
        path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{ROLE}"
        await self._api.request("DELETE", path, allow=(NOT_FOUND,))

    async def make(
        self, kind: str, count: int, at_once: bool, pause: float = 0.0
    ) -> dict[str, Any]:
        """Create ``count`` nodes of a kind: seconds of each, seconds in total, CPU seconds.

        If not at once, there are ``pause`` seconds between one node and the next.
        """
        async with self._pods.running():
            cpu, began = time.process_time(), time.monotonic()
            if at_once:
                durations = await asyncio.gather(*(self._timed(kind) for _ in range(count)))
            else:
                durations = [await self._timed(kind, pause) for _ in range(count)]
            elapsed = time.monotonic() - began
            return {
                "durations": durations,
                "elapsed": elapsed,
                "cpu": time.process_time() - cpu,
            }

    async def _timed(self, kind: str, pause: float = 0.0) -> float:
        await asyncio.sleep(pause)
        began = time.monotonic()
        await self._node(kind)
        return time.monotonic() - began

    async def _node(self, kind: str) -> None:
        name = f"{PREFIX}floor-{os.getpid()}-{next(self._serial)}"
        account = asyncio.Event()
        # Node by node rather than all namespaces first: the scheduler and the kubelet
        # then work on the first pods while the last ones are still being created.
        async with asyncio.TaskGroup() as tasks, self._gate:
            await self._create("/api/v1/namespaces", {"metadata": _named(name)})
            if kind == "pod":
                # Outside the gate: it mostly waits for the API server's admission plugins.
                tasks.create_task(self._pod(name, account))
            await asyncio.gather(*self._access(name, account))

    async def _create(self, path: str, body: Any) -> bytes:
        """Create an object, unless it exists."""
        return await self._api.request("POST", path, body, allow=(CONFLICT,))

    def _access(self, namespace: str, account: asyncio.Event) -> list[Awaitable[Any]]:
        base = f"/api/v1/namespaces/{namespace}"
        authority = {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "floor"}}
        binding = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"
        return [
            self._default_account(base, account),
            self._worker_account(base),
            self._create(f"{base}/configmaps", authority),
            self._create(binding, _binding(namespace)),
        ]

    async def _pod(self, namespace: str, account: asyncio.Event) -> None:
        ready = self._pods.expect(namespace)
        await account.wait()
        await self._create(f"/api/v1/namespaces/{namespace}/pods", _pod(namespace, self._image))
        await ready.wait()

    async def _default_account(self, base: str, account: asyncio.Event) -> None:
        await self._create(f"{base}/serviceaccounts", {"metadata": {"name": "default"}})
        account.set()

    async def _worker_account(self, base: str) -> None:
        await self._create(f"{base}/serviceaccounts", {"metadata": {"name": WORKER}})
        body = {"spec": {"expirationSeconds": TOKEN_S}}
        answer = await self._create(f"{base}/serviceaccounts/{WORKER}/token", body)
        assert json.loads(answer)["status"]["token"]

    async def clean(self, everything: bool = False) -> None:
        """Delete the floor's namespaces, or those of any benchmark, without waiting."""
        for name in await self._namespaces("" if everything else f"?labelSelector={MARK}"):
            await self._api.request(
                "DELETE", f"/api/v1/namespaces/{name}", allow=(NOT_FOUND, CONFLICT)
            )

    async def await_empty(self, within: float) -> None:
        """Wait until the cluster has no namespace of a benchmark."""
        deadline = time.monotonic() + within
        while left := await self._namespaces():
            if time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{len(left)} namespaces are left over, {left[0]} among them; "
                    "remove them before the next run"
                )
            await asyncio.sleep(POLL_S)

    async def _namespaces(self, query: str = "") -> list[str]:
        listed = await self._api.call("GET", f"/api/v1/namespaces{query}")
        names = (item["metadata"]["name"] for item in listed["items"])
        return [name for name in names if name.startswith(PREFIX)]


def _named(name: str) -> dict[str, Any]:
    return {"name": name, "labels": {MARK: "true"}}


def _binding(namespace: str) -> dict[str, Any]:
    return {
        "metadata": {"name": WORKER},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": WORKER, "namespace": namespace}],
    }


def _pod(namespace: str, image: str) -> dict[str, Any]:
    amounts = {"cpu": "1", "memory": "128Mi"}
    container = {
        "name": "pod",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c"],
        "args": ["trap 'exit 0' TERM; while true; do sleep 86400 & wait; done"],
        "resources": {"requests": amounts, "limits": amounts},
    }
    metadata = {**_named("pod"), "namespace": namespace}
    return {"metadata": metadata, "spec": {"containers": [container], "restartPolicy": "Never"}}


async def _run(path: Path, context: str, image: str, in_flight: int) -> None:
    async with ApiClient.connected(kubeconfig.access(path, context), CONNECTIONS) as api:
        floor = Floor(api, image, in_flight)
        await floor.prepare()
        commands: workers.Commands = {
            "make": floor.make,
            "clean": floor.clean,
            "await_empty": floor.await_empty,
        }
        try:
            await workers.serve(commands, (ApiError, aiohttp.ClientError, OSError))
        finally:
            await floor.retire()


def main() -> None:
    """``python -m benchmark.floor KUBECONFIG CONTEXT IMAGE IN_FLIGHT``."""
    path, context, image, in_flight = sys.argv[1:]
    asyncio.run(_run(Path(path), context, image, int(in_flight)))


if __name__ == "__main__":
    main()
