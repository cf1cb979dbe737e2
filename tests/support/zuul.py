"""ZooKeeper as Zuul sees it, through kazoo alone: requests, nodes, locks, and what is left.

Knows the paths and keys by heart instead of asking nodepool_k8s, so that the protocol is
tested and not its own reading of it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, NoNodeError, NotEmptyError
from kazoo.recipe.lock import Lock
from kazoo.retry import KazooRetry

from tests.support.waiting import eventually

REQUESTS = "/nodepool/requests"
REQUEST_LOCKS = "/nodepool/requests-lock"
NODES = "/nodepool/nodes"
POOLS = "/nodepool/components/pool"
LEDGERS = "/nodepool-k8s/ledger"

Record = dict[str, Any]


def zuul_request(labels: list[str], **changes: Any) -> Record:
    """A request with the keys that Zuul 14 writes, in its order."""
    now = time.time()
    return {
        "state": "requested",
        "state_time": now,
        "node_types": labels,
        "requestor": "zuul system",
        "created_time": now,
        "event_id": uuid.uuid4().hex,
        "tenant_name": "tenant-one",
        "requestor_data": {
            "build_set_uuid": uuid.uuid4().hex,
            "tenant_name": "tenant-one",
            "pipeline_name": "check",
            "job_uuid": uuid.uuid4().hex,
            "job_name": "unit-tests",
            "span_info": None,
        },
        "provider": None,
        "relative_priority": 0,
        **changes,
    }


@dataclass
class Sighting:
    """What was seen at the moment when a request's answer appeared."""

    request: Record
    node_locks: dict[str, list[str]]
    nodes: list[Record]


@dataclass
class Zuul:
    """A requestor with a session of its own."""

    hosts: str
    kazoo: Any = field(init=False)

    def __post_init__(self) -> None:
        self.kazoo = KazooClient(
            hosts=self.hosts, timeout=30, connection_retry=KazooRetry(max_tries=-1, max_delay=0.5)
        )
        self._retry = KazooRetry(max_tries=-1, delay=0.05, max_delay=0.5, deadline=40)

    async def start(self) -> None:
        await asyncio.to_thread(self.kazoo.start)
        for path in (REQUESTS, REQUEST_LOCKS, NODES, POOLS):
            await self.do(self.kazoo.ensure_path, path)

    async def stop(self) -> None:
        def stop() -> None:
            self.kazoo.stop()
            self.kazoo.close()

        await asyncio.to_thread(stop)

    async def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call kazoo, again after a dropped connection, without stopping our event loop."""
        return await asyncio.to_thread(self._retry.copy(), function, *args, **kwargs)

    # --- records ------------------------------------------------------------------------------

    async def get(self, path: str) -> Record | None:
        """A znode's JSON; None where there is no znode, or nothing in it."""
        try:
            data, _ = await self.do(self.kazoo.get, path)
        except NoNodeError:
            return None
        return json.loads(data) if data else None

    async def put(self, path: str, record: Record | bytes) -> None:
        data = record if isinstance(record, bytes) else json.dumps(record).encode()
        await self.do(self.kazoo.set, path, data)

    async def create(self, path: str, record: Record | bytes, **options: Any) -> str:
        data = record if isinstance(record, bytes) else json.dumps(record).encode()
        made: str = await self.do(self.kazoo.create, path, data, **options)
        return made

    async def children(self, path: str) -> list[str]:
        try:
            names: list[str] = await self.do(self.kazoo.get_children, path)
        except NoNodeError:
            return []
        return sorted(names)

    async def delete(self, path: str) -> None:
        try:
            await self.do(self.kazoo.delete, path)
        except NoNodeError:
            return

    # --- requests -------------------------------------------------------------------------------

    async def submit(self, *labels: str, priority: int = 200, **changes: Any) -> str:
        """Write a request as Zuul does; its id."""
        return await self.submit_raw(zuul_request(list(labels), **changes), priority)

    async def submit_raw(self, record: Record | bytes, priority: int | str = 200) -> str:
        path = await self.create(f"{REQUESTS}/{priority:0>3}-", record, sequence=True)
        return path.rpartition("/")[2]

    async def request(self, request_id: str) -> Record | None:
        return await self.get(f"{REQUESTS}/{request_id}")

    async def answered(self, request_id: str, *states: str) -> Record:
        """Wait for the request to come to one of the states (fulfilled); the request."""
        wanted = states or ("fulfilled",)

        async def check() -> Record | None:
            record = await self.request(request_id)
            assert record is not None, f"request {request_id} is gone"
            assert record["state"] in wanted, record
            return record

        found: Record = await eventually(check, f"request {request_id} {wanted}")
        return found

    async def cancel(self, request_id: str) -> None:
        await self.delete(f"{REQUESTS}/{request_id}")

    def watch_answer(self, request_id: str) -> Callable[[], Sighting | None]:
        """Look at everything at the very moment when the request is answered.

        Called (and looking) on kazoo's threads, as Zuul's own cache does.
        """
        sightings: list[Sighting] = []

        def look(data: bytes | None, _stat: Any, _event: Any = None) -> bool | None:
            record = json.loads(data) if data else {}
            if record.get("state") not in ("fulfilled", "failed"):
                return None
            locks, nodes = {}, []
            for node_id in record["nodes"]:
                try:
                    locks[node_id] = self.kazoo.get_children(f"{NODES}/{node_id}/lock")
                except NoNodeError:
                    locks[node_id] = []
                nodes.append(json.loads(self.kazoo.get(f"{NODES}/{node_id}")[0]))
            sightings.append(Sighting(record, locks, nodes))
            return False

        self.kazoo.DataWatch(f"{REQUESTS}/{request_id}", look)
        return lambda: sightings[0] if sightings else None

    # --- nodes --------------------------------------------------------------------------------

    async def node(self, node_id: str) -> Record | None:
        return await self.get(f"{NODES}/{node_id}")

    async def nodes(self) -> dict[str, Record]:
        """Every node record there is."""
        found = {name: await self.node(name) for name in await self.children(NODES)}
        return {name: record for name, record in found.items() if record is not None}

    async def building(self, request_id: str, count: int = 1) -> list[str]:
        """Wait until the request's nodes are being built; their ids."""

        async def check() -> list[str]:
            return [
                name
                for name, record in (await self.nodes()).items()
                if record["allocated_to"] == request_id and record["state"] == "building"
            ]

        async def all_of_them() -> list[str] | None:
            found = await check()
            return found if len(found) == count else None

        names: list[str] = await eventually(all_of_them, f"{count} nodes of {request_id} building")
        return names

    async def lock(self, path: str) -> Lock:
        """Take a lock by kazoo's own recipe; fails when somebody has it."""
        lock = self.kazoo.Lock(path, "zuul")
        assert await asyncio.to_thread(lock.acquire, True, 20), f"{path} is held"
        return lock

    async def unlock(self, lock: Lock) -> None:
        await asyncio.to_thread(lock.release)

    async def accept(self, request_id: str) -> dict[str, Lock]:
        """What Zuul does with a fulfilled request: lock the nodes, drop it, use them."""
        record = await self.request(request_id)
        assert record is not None
        locks = {}
        for node_id in record["nodes"]:
            lock = await self.lock(f"{NODES}/{node_id}/lock")
            node = await self.node(node_id)
            assert node is not None
            assert node["allocated_to"] == request_id
            locks[node_id] = lock
        await self.cancel(request_id)
        for node_id in locks:
            await self.set_node(node_id, state="in-use", user_data={"zuul_system": "test"})
        return locks

    async def set_node(self, node_id: str, **changes: Any) -> None:
        node = await self.node(node_id)
        assert node is not None
        await self.put(f"{NODES}/{node_id}", {**node, "state_time": time.time(), **changes})

    async def give_back(self, locks: dict[str, Lock]) -> None:
        for node_id, lock in locks.items():
            await self.set_node(node_id, state="used")
            await self.unlock(lock)

    async def use_and_return(self, request_id: str) -> None:
        await self.answered(request_id)
        await self.give_back(await self.accept(request_id))

    async def gone(self, *node_ids: str) -> None:
        """Wait until the records of the nodes are gone."""

        async def check() -> bool:
            return not set(node_ids) & set(await self.children(NODES))

        await eventually(check, f"nodes {node_ids} gone")

    async def states(self) -> dict[str, str]:
        """The state of every node; of one whose record is empty, that."""
        found = {name: await self.node(name) for name in await self.children(NODES)}
        return {name: record["state"] if record else "empty" for name, record in found.items()}

    async def drop_drafts(self) -> None:
        """Remove drafts, which a launcher leaves for a minute when an answer is lost."""
        for node_id, state in (await self.states()).items():
            if state == "init":
                await self.delete(f"{NODES}/{node_id}")

    # --- the whole ---------------------------------------------------------------------------

    async def deployment(self) -> str:
        data, _ = await self.do(self.kazoo.get, "/nodepool-k8s/deployment")
        return str(data.decode())

    async def components(self) -> list[Record]:
        found = [await self.get(f"{POOLS}/{name}") for name in await self.children(POOLS)]
        return [record for record in found if record is not None]

    async def register(self, **keys: Any) -> str:
        """Register a pool by hand, as another launcher would."""
        record = {
            "hostname": "elsewhere",
            "state": "running",
            "kind": "pool",
            "version": "11.0.0",
            "model_api": 0,
            "provider_name": "another",
            "supported_labels": [],
            "priority": 100,
            "paused": False,
            **keys,
        }
        record.setdefault("name", record["id"])
        return await self.create(f"{POOLS}/elsewhere", record, sequence=True, ephemeral=True)

    async def ledgers(self) -> dict[str, dict[str, int]]:
        """What each pool's ledger holds, in thousandths."""
        found = {}
        for provider in await self.children(LEDGERS):
            for pool in await self.children(f"{LEDGERS}/{provider}"):
                record = await self.get(f"{LEDGERS}/{provider}/{pool}") or {"claimed": {}}
                found[f"{provider}/{pool}"] = record["claimed"]
        return found

    async def sums(self) -> dict[str, dict[str, int]]:
        """What the node records say that they hold of each pool's quota."""
        sums: dict[str, dict[str, int]] = {}
        for record in (await self.nodes()).values():
            claimed = ((record["driver_data"] or {}).get("nodepool_k8s") or {}).get("claimed") or {}
            total = sums.setdefault(f"{record['provider']}/{record['pool']}", {})
            for name, amount in claimed.items():
                total[name] = total.get(name, 0) + amount
        return sums

    async def held_locks(self) -> list[str]:
        """Every lock of a request or a node that somebody has."""
        held = []
        for name in await self.children(REQUEST_LOCKS):
            held += await self.children(f"{REQUEST_LOCKS}/{name}")
        for name in await self.children(NODES):
            held += await self.children(f"{NODES}/{name}/lock")
        return held

    async def tidy(self) -> None:
        """Withdraw every request and return every node that nobody holds."""
        for request_id in await self.children(REQUESTS):
            await self.cancel(request_id)
        for node_id, record in (await self.nodes()).items():
            if record["state"] in ("ready", "in-use", "hold"):
                await self._mark_used(node_id, record)

    async def _mark_used(self, node_id: str, record: Record) -> None:
        if await self.children(f"{NODES}/{node_id}/lock"):
            return
        path = f"{NODES}/{node_id}"
        try:
            await self.put(path, {**record, "state": "used"})
        except (NoNodeError, BadVersionError, NotEmptyError):
            return


class Recorder:
    """Looks at something in a thread of its own, as often as it can, and keeps the maximum."""

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure = measure
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.maximum = 0
        self.looks = 0
        self.error: BaseException | None = None

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.maximum = max(self.maximum, self._measure())
                self.looks += 1
        except BaseException as error:
            self.error = error


class LedgerWatch:
    """Looks at a pool's records and its ledger together, over and over.

    Every claim and every removal changes the ledger's version: records that were read while
    it stood still are what there was at one moment.
    """

    def __init__(self, hosts: str, pool: str, provider: str = "local") -> None:
        self._kazoo = KazooClient(hosts=hosts, timeout=30)
        self._pool = pool
        self._path = f"{LEDGERS}/{provider}/{pool}"
        self.differences: list[tuple[dict[str, int], dict[str, int]]] = []
        self.maximum: dict[str, float] = {}

    def start(self) -> None:
        self._kazoo.start()

    def stop(self) -> None:
        self._kazoo.stop()
        self._kazoo.close()

    def look(self) -> int:
        """How many nodes hold a part of the quota; 0 where the moment could not be caught."""
        try:
            data, before = self._kazoo.get(self._path)
            total = self._total()
            _, after = self._kazoo.get(self._path)
        except NoNodeError:
            return 0
        if before.version != after.version:
            return 0
        claimed = json.loads(data)["claimed"]
        if claimed != total:
            self.differences.append((claimed, total))
        for name, amount in total.items():
            self.maximum[name] = max(self.maximum.get(name, 0), amount / 1000)
        return total.get("instances", 0) // 1000

    def _total(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for name in self._kazoo.get_children(NODES):
            try:
                data = self._kazoo.get(f"{NODES}/{name}")[0]
            except NoNodeError:
                continue
            if not data:  # A contender's lock made it.
                continue
            record = json.loads(data)
            own = (record["driver_data"] or {}).get("nodepool_k8s") or {}
            if record["pool"] == self._pool:
                for key, amount in own.get("claimed", {}).items():
                    total[key] = total.get(key, 0) + amount
        return total
