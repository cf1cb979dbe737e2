"""What the judge sees: through its own ZooKeeper session and its own watches at the API server.

It connects to the servers themselves, past the proxies that are broken on purpose. When a
server itself is restarted there is a gap, after which everything is read again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import aiohttp
from harness.api import ApiClient, ApiError
from harness.requestor import NODES, REQUEST_LOCKS, REQUESTS
from harness.zookeeper import Record
from kazoo.exceptions import KazooException
from kazoo.protocol.states import KazooState
from kazoo.retry import KazooRetry

from faults.judge import Judge
from nodepool_k8s.zookeeper.recursive_watch import RecursiveWatchClient

ROOT = "/nodepool"
SESSION_S = 60.0
AGAIN_S = 0.2
QUIET_S = 60.0
"""A watch without an event for so long is opened again."""
DEPLOYMENT = "nodepool-k8s/deployment"
NODE_ID = "nodepool_node_id"


class ZooKeeperWatch:
    """Tells the judge of every request and node, in ZooKeeper's order.

    Events and answers come on one thread of the connection, and are handed to the event loop
    in their order there.
    """

    def __init__(self, hosts: str, judge: Judge) -> None:
        self._judge = judge
        self._loop = asyncio.get_running_loop()
        retry = KazooRetry(max_tries=-1, max_delay=0.5)
        self._client: Any = RecursiveWatchClient(
            hosts=hosts, timeout=SESSION_S, connection_retry=retry
        )
        self._client.watch_callback = self._event
        self._client.add_listener(self._connected)

    def start(self) -> None:
        """Connect; blocks."""
        self._client.start()
        for path in (REQUESTS, NODES):
            self._client.ensure_path(path)
        self._loop.call_soon_threadsafe(self._read_all)

    def stop(self) -> None:
        """Blocks."""
        self._client.remove_listener(self._connected)
        self._client.stop()
        self._client.close()

    def _connected(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            self._loop.call_soon_threadsafe(self._read_all)

    def _read_all(self) -> None:
        self._judge.catching_up = True
        self._judge.forget_locks()
        self._client.add_recursive_watch_async(ROOT)
        for parent in (REQUESTS, NODES):
            listed = self._client.get_children_async(parent)
            listed.rawlink(lambda result, parent=parent: self._listed(parent, result))

    def _listed(self, parent: str, result: Any) -> None:
        with suppress(KazooException):
            names = result.get()
            tell = self._judge.only_nodes if parent == NODES else self._judge.only_requests
            self._call(tell, set(names))
            for name in names:
                self._read(f"{parent}/{name}")
            if parent == NODES:
                # Answered after every read before it.
                self._client.exists_async(ROOT).rawlink(lambda _: self._call(self._caught_up))

    def _caught_up(self) -> None:
        self._judge.catching_up = False

    def _event(self, kind: str, path: str) -> None:
        parent, _, name = path.rpartition("/")
        if path.startswith(f"{REQUEST_LOCKS}/") and parent != REQUEST_LOCKS:
            request = parent.rpartition("/")[2]
            change = partial(self._judge.lock_changed, request, name, there=kind == "CREATED")
            self._call(change)
        if parent not in (REQUESTS, NODES):
            return
        if kind in ("CREATED", "CHANGED"):
            self._read(path)
        elif kind == "DELETED":
            gone = self._judge.node_gone if parent == NODES else self._judge.request_gone
            self._call(gone, name)

    def _read(self, path: str) -> None:
        self._client.get_async(path).rawlink(lambda result: self._answered(path, result))

    def _answered(self, path: str, result: Any) -> None:
        # A deletion has an event of its own; after a lost connection everything is read again.
        with suppress(KazooException):
            data, _ = result.get()
            if data:
                parent, _, name = path.rpartition("/")
                judge = self._judge
                changed = judge.node_changed if parent == NODES else judge.request_changed
                self._call(changed, name, json.loads(data))

    def _call(self, function: Callable[..., None], *given: Any) -> None:
        self._loop.call_soon_threadsafe(function, *given)


class ClusterWatch:
    """Tells the judge of the deployment's namespaces and pods, each in the API server's order."""

    def __init__(self, api: ApiClient, deployment: str, judge: Judge) -> None:
        self._api = api
        self._selector = f"{DEPLOYMENT}={deployment}"
        self._judge = judge

    async def watch_namespaces(self) -> None:
        """Until cancelled."""
        await self._watch("/api/v1/namespaces", self._namespace, self._only_namespaces)

    async def watch_pods(self) -> None:
        """Until cancelled."""
        await self._watch("/api/v1/pods", self._pod, self._only_pods)

    async def _watch(
        self,
        path: str,
        tell: Callable[[str, Record], None],
        only: Callable[[list[Record]], None],
    ) -> None:
        while True:
            with suppress(ApiError, aiohttp.ClientError, TimeoutError, OSError, ValueError):
                await self._watch_once(path, tell, only)
            await asyncio.sleep(AGAIN_S)

    async def _watch_once(
        self,
        path: str,
        tell: Callable[[str, Record], None],
        only: Callable[[list[Record]], None],
    ) -> None:
        found = await self._api.call("GET", f"{path}?labelSelector={self._selector}")
        only(found["items"])
        for item in found["items"]:
            tell("ADDED", item)
        version = found["metadata"]["resourceVersion"]
        params = {"labelSelector": self._selector, "resourceVersion": version}
        async with aclosing(self._api.watch(path, params, QUIET_S)) as events:
            async for kind, item in events:
                if kind == "ERROR":
                    return
                tell(kind, item)

    def _namespace(self, kind: str, item: Record) -> None:
        meta = item["metadata"]
        if kind == "DELETED":
            self._judge.namespace_gone(meta["name"])
            return
        deleting = "deletionTimestamp" in meta
        node = meta.get("labels", {}).get(NODE_ID, "")
        self._judge.namespace_changed(meta["name"], node, deleting=deleting)

    def _pod(self, kind: str, item: Record) -> None:
        meta = item["metadata"]
        if kind == "DELETED":
            self._judge.pod_gone(meta["uid"])
            return
        ended = item.get("status", {}).get("phase") in ("Succeeded", "Failed")
        deleting = "deletionTimestamp" in meta or ended
        self._judge.pod_changed(meta["uid"], meta["namespace"], deleting=deleting)

    def _only_namespaces(self, items: Iterable[Record]) -> None:
        self._judge.only_namespaces({item["metadata"]["name"] for item in items})

    def _only_pods(self, items: Iterable[Record]) -> None:
        self._judge.only_pods({item["metadata"]["uid"] for item in items})
