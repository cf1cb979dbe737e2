"""A requestor that behaves as Zuul does, through kazoo alone.

Paths and keys are spelled out instead of imported from nodepool_k8s, so that the protocol is
tested and not its own reading of it.
"""

from __future__ import annotations

import json
import time
import uuid
from contextlib import suppress
from typing import Any

from kazoo.exceptions import BadVersionError, NoNodeError
from kazoo.recipe.lock import Lock

from harness.zookeeper import Record, ZooKeeperError, ZooKeeperSession, encode

REQUESTS = "/nodepool/requests"
REQUEST_LOCKS = "/nodepool/requests-lock"
NODES = "/nodepool/nodes"
POOLS = "/nodepool/components/pool"
LEDGERS = "/nodepool-k8s/ledger"
DEPLOYMENT = "/nodepool-k8s/deployment"

PRIORITY = 200
"""Zuul's normal priority."""
ANSWERS = ("fulfilled", "failed")


def zuul_request(labels: list[str], tenant: str = "tenant-one", **changes: Any) -> Record:
    """A request with the keys that Zuul 14 writes, in its order."""
    now = time.time()
    return {
        "state": "requested",
        "state_time": now,
        "node_types": labels,
        "requestor": "zuul system",
        "created_time": now,
        "event_id": uuid.uuid4().hex,
        "tenant_name": tenant,
        "requestor_data": {
            "build_set_uuid": uuid.uuid4().hex,
            "tenant_name": tenant,
            "pipeline_name": "check",
            "job_uuid": uuid.uuid4().hex,
            "job_name": "unit-tests",
            "span_info": None,
        },
        "provider": None,
        "relative_priority": 0,
        **changes,
    }


class Requestor(ZooKeeperSession):
    """Zuul's part of the protocol, for any number of requests, in one session."""

    # --- requests --------------------------------------------------------------------------

    async def submit(self, *labels: str, priority: int = PRIORITY, **changes: Any) -> str:
        """Write a request for nodes of those labels; its id."""
        return await self.submit_record(zuul_request(list(labels), **changes), priority)

    async def submit_record(self, record: Record, priority: int | str = PRIORITY) -> str:
        """Write a request once, whatever happens to the connection; its id.

        If an answer was lost, the record's ``event_id`` tells whether it had been written.
        """
        mark = json.dumps(str(record["event_id"]))[1:-1].encode()
        tried = False

        def create() -> str:
            nonlocal tried
            written = self._find_request(mark) if tried else None
            tried = True
            if written is not None:
                return written
            path: str = self.kazoo.create(
                request_prefix(priority), encode(record), sequence=True, makepath=True
            )
            return path.rpartition("/")[2]

        request_id: str = await self.do(create)
        return request_id

    def _find_request(self, mark: bytes) -> str | None:
        for name in self.kazoo.get_children(REQUESTS):
            with suppress(NoNodeError):
                if mark in self.kazoo.get(f"{REQUESTS}/{name}")[0]:
                    return str(name)
        return None

    async def request(self, request_id: str) -> Record | None:
        """A request's record."""
        return await self.get(f"{REQUESTS}/{request_id}")

    async def wait_answer(self, request_id: str) -> tuple[Record, float]:
        """Wait until a request is fulfilled or failed; its record, and when it was read.

        Raises ZooKeeperError if the request is deleted meanwhile.
        """
        seen = await self.watch_until(
            f"{REQUESTS}/{request_id}", lambda record: not record or record["state"] in ANSWERS
        )
        if not seen.record:
            raise ZooKeeperError(f"request {request_id} is gone")
        return seen.record, seen.time

    async def revise(self, request_id: str, **changes: Any) -> bool:
        """Change a request that no launcher works on, under its lock; whether it was changed."""
        lock = await self.try_lock(f"{REQUEST_LOCKS}/{request_id}")
        if lock is None:
            return False
        try:
            path = f"{REQUESTS}/{request_id}"
            found = await self.get_versioned(path)
            if found is None or found[0]["state"] != "requested":
                return False
            record, version = found
            await self.put(path, {**record, **changes}, version)
        except (NoNodeError, BadVersionError):
            return False
        else:
            return True
        finally:
            await self.unlock(lock)

    async def cancel(self, request_id: str) -> None:
        """Delete a request, answered or not."""
        await self.delete(f"{REQUESTS}/{request_id}")

    # --- nodes -----------------------------------------------------------------------------

    async def node(self, node_id: str) -> Record | None:
        """A node's record."""
        return await self.get(f"{NODES}/{node_id}")

    async def nodes(self) -> dict[str, Record]:
        """Every node record, by the node's id."""
        found = {name: await self.node(name) for name in await self.children(NODES)}
        return {name: record for name, record in found.items() if record is not None}

    async def accept(self, request_id: str) -> dict[str, Lock]:
        """Lock the nodes of a fulfilled request, delete it, and use them; the nodes' locks.

        Raises ZooKeeperError if a node is not ready and allocated to the request.
        """
        record = await self.request(request_id)
        if record is None or record["state"] != "fulfilled":
            raise ZooKeeperError(f"request {request_id} is not fulfilled: {record}")
        locks = {node_id: await self.lock_node(node_id, request_id) for node_id in record["nodes"]}
        await self.cancel(request_id)
        for node_id in locks:
            await self.use(node_id)
        return locks

    async def lock_node(self, node_id: str, request_id: str) -> Lock:
        """Lock a node that is ready for a request. Raises ZooKeeperError if it is not."""
        lock = await self.lock(f"{NODES}/{node_id}/lock")
        node = await self.node(node_id)
        if node is None or (node["state"], node["allocated_to"]) != ("ready", request_id):
            await self.unlock(lock)
            raise ZooKeeperError(f"node {node_id} is not ready for request {request_id}: {node}")
        return lock

    async def use(self, node_id: str) -> None:
        """Mark a node as in use."""
        await self.set_node(node_id, state="in-use", user_data={"zuul_system": "test"})

    async def set_node(self, node_id: str, **changes: Any) -> None:
        """Change a node's record, and the time of its state. Raises NoNodeError."""
        path = f"{NODES}/{node_id}"
        node = await self.get(path)
        if node is None:
            raise NoNodeError(path)
        await self.put(path, {**node, "state_time": time.time(), **changes})

    async def give_back(self, locks: dict[str, Lock]) -> None:
        """Mark nodes as used and release their locks."""
        for node_id, lock in locks.items():
            await self.set_node(node_id, state="used")
            await self.unlock(lock)

    async def wait_gone(self, node_id: str) -> float:
        """Wait until a node's record is gone; when it was."""
        return (await self.watch_until(f"{NODES}/{node_id}", lambda node: node is None)).time

    # --- launchers -------------------------------------------------------------------------

    async def components(self) -> list[Record]:
        """The registered pools."""
        found = [await self.get(f"{POOLS}/{name}") for name in await self.children(POOLS)]
        return [record for record in found if record is not None]

    async def deployment(self) -> str:
        """The id of the launchers' deployment; empty before there is one."""
        found = await self.read(DEPLOYMENT)
        return found[0].decode() if found else ""

    async def held_locks(self) -> list[str]:
        """The locks of requests and nodes that are held."""
        held = []
        for name in await self.children(REQUEST_LOCKS):
            held += await self.children(f"{REQUEST_LOCKS}/{name}")
        for name in await self.children(NODES):
            held += await self.children(f"{NODES}/{name}/lock")
        return held


def request_prefix(priority: int | str = PRIORITY) -> str:
    """What a request's path begins with; ZooKeeper appends a sequence number."""
    return f"{REQUESTS}/{priority:0>3}-"
