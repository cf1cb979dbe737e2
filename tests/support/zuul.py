"""The requestor of the tests, which also waits, inspects ZooKeeper, and cleans up."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.requestor import (
    LEDGERS,
    NODES,
    POOLS,
    REQUEST_LOCKS,
    REQUESTS,
    Requestor,
    request_prefix,
)
from harness.zookeeper import Record
from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, NoNodeError, NotEmptyError

from tests.support.waiting import eventually


@dataclass
class Sighting:
    """What was read at the moment when a request's answer appeared."""

    request: Record
    node_locks: dict[str, list[str]]
    nodes: list[Record]


class Zuul(Requestor):
    """A requestor with a session of its own."""

    async def start(self) -> None:
        """Connect, and create the paths that Zuul's own start creates."""
        await super().start()
        for path in (REQUESTS, REQUEST_LOCKS, NODES, POOLS):
            await self.do(self.kazoo.ensure_path, path)

    # --- requests -------------------------------------------------------------------------------

    async def submit_raw(self, record: Record | bytes, priority: int | str = 200) -> str:
        """Write anything as a request; its id."""
        path = await self.create(request_prefix(priority), record, sequence=True)
        return path.rpartition("/")[2]

    async def answered(self, request_id: str, *states: str) -> Record:
        """Wait until the request is in one of the states (default: fulfilled); its record."""
        wanted = states or ("fulfilled",)

        async def check() -> Record | None:
            record = await self.request(request_id)
            assert record is not None, f"request {request_id} is gone"
            assert record["state"] in wanted, record
            return record

        found: Record = await eventually(check, f"request {request_id} {wanted}")
        return found

    def watch_answer(self, request_id: str) -> Callable[[], Sighting | None]:
        """Read request, nodes and locks at the moment when the request is answered.

        Runs on kazoo's threads, as Zuul's own cache does.
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

    async def use_and_return(self, request_id: str) -> None:
        await self.answered(request_id)
        await self.give_back(await self.accept(request_id))

    async def gone(self, *node_ids: str) -> None:
        """Wait until the records of the nodes are gone."""

        async def check() -> bool:
            return not set(node_ids) & set(await self.children(NODES))

        await eventually(check, f"nodes {node_ids} gone")

    async def states(self) -> dict[str, str]:
        """The state of every node; "empty" without a record."""
        found = {name: await self.node(name) for name in await self.children(NODES)}
        return {name: record["state"] if record else "empty" for name, record in found.items()}

    async def drop_drafts(self) -> None:
        """Remove drafts, which a launcher leaves for a minute when an answer is lost."""
        for node_id, state in (await self.states()).items():
            if state == "init":
                await self.delete(f"{NODES}/{node_id}")

    # --- everything ---------------------------------------------------------------------------

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
        """What the node records claim of each pool's quota, in thousandths."""
        sums: dict[str, dict[str, int]] = {}
        for record in (await self.nodes()).values():
            claimed = ((record["driver_data"] or {}).get("nodepool_k8s") or {}).get("claimed") or {}
            total = sums.setdefault(f"{record['provider']}/{record['pool']}", {})
            for name, amount in claimed.items():
                total[name] = total.get(name, 0) + amount
        return sums

    async def tidy(self) -> None:
        """Cancel every request and return every unlocked node."""
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
    """Measures something in a thread, as often as it can, and keeps the maximum."""

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure = measure
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.maximum = 0
        self.looks = 0
        self.error: BaseException | None = None

    async def __aenter__(self) -> Recorder:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        # Not in the event loop, for which the thread may be waiting.
        await asyncio.to_thread(self._thread.join)
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
    """Compares a pool's records with its ledger, again and again.

    Every claim and every removal changes the ledger's version: records that were read while
    it did not change are consistent.
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
        """How many nodes hold a part of the quota; 0 if the records changed meanwhile."""
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
            if not data:  # Created by a contender's lock.
                continue
            record = json.loads(data)
            own = (record["driver_data"] or {}).get("nodepool_k8s") or {}
            if record["pool"] == self._pool:
                for key, amount in own.get("claimed", {}).items():
                    total[key] = total.get(key, 0) + amount
        return total
