"""Requestors as Zuul is one: submit, revise, cancel, accept, use, hold, return, and die.

Each request is a life of its own, with its own part of the seed, so that what one does
depends on nobody else's timing.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from kazoo.exceptions import BadVersionError, NoNodeError
from kazoo.recipe.lock import Lock

from faults.judge import Judge, reasons
from faults.plan import LABELS, LIMITED_TENANT, OTHER_TENANT, Plan
from faults.session import Record, Session

REQUESTS = "/nodepool/requests"
REQUEST_LOCKS = "/nodepool/requests-lock"
NODES = "/nodepool/nodes"
PRIORITIES = ("100", "200", "300")
POLL_S = 0.15
LOCK_S = 20.0
ANSWERS = ("fulfilled", "failed")
MOST_USE_S = 2.0
MOST_CANCEL_S = 4.0

CANCELS, REVISES, HOLDS, DIES = 0.15, 0.2, 0.1, 0.1
"""The share of the lives that do so."""


@dataclass
class Load:
    """Requestors, as many at a time as the plan says, until told to stop."""

    hosts: str
    plan: Plan
    judge: Judge
    ended: Counter[str] = field(default_factory=Counter)
    """Requests by how they ended."""
    _lives: dict[asyncio.Task[None], str] = field(default_factory=dict)
    """Each life, and its request once that is submitted."""
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, session: Session) -> None:
        """Begin lives, until `stop`."""
        number = 0
        while not self._stopping.is_set():
            while len(self._lives) < self.plan.requestors:
                number += 1
                rng = random.Random(f"{self.plan.seed} life {number}")
                task = asyncio.create_task(self._live(session, rng))
                self._lives[task] = ""
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await asyncio.wait(self._lives, return_when=asyncio.FIRST_COMPLETED)
            self._bury()

    def stop(self) -> None:
        """No more requests; those under way go on to their ends."""
        self._stopping.set()

    async def finish(self, within: float) -> None:
        """Await every life; those that don't end are violations."""
        deadline = time.monotonic() + within
        while self._lives and time.monotonic() < deadline:
            await asyncio.wait(self._lives, timeout=POLL_S)
            self._bury()
        for life, request in self._lives.items():
            life.cancel()
            self.ended["no end"] += 1
            state = self.judge.requests.get(request, {}).get("state", "gone")
            what = f"request {request} is {state} after {within:.0f} s without faults"
            self.judge.accuse("every request ends", what, request)
        await asyncio.gather(*self._lives, return_exceptions=True)

    def _bury(self) -> None:
        for life in [each for each in self._lives if each.done()]:
            del self._lives[life]
            life.result()

    # --- one life --------------------------------------------------------------------------------

    async def _live(self, scheduler: Session, rng: random.Random) -> None:
        dies = rng.random() < DIES
        # Who dies takes nobody with it.
        session = await Session(self.hosts).start() if dies else scheduler
        try:
            self.ended[await self._request(session, rng, dies=dies)] += 1
        finally:
            if dies:
                await session.stop()

    async def _request(self, session: Session, rng: random.Random, *, dies: bool) -> str:
        request = await session.submit(f"{REQUESTS}/{rng.choice(PRIORITIES)}-", _record(rng))
        current = asyncio.current_task()
        assert current is not None
        self._lives[current] = request
        revised_in = rng.uniform(0, MOST_CANCEL_S) if rng.random() < REVISES else None
        cancelled_in = rng.uniform(0, MOST_CANCEL_S) if rng.random() < CANCELS else None
        use = rng.uniform(0, MOST_USE_S)
        holds = not dies and rng.random() < HOLDS
        began = time.monotonic()
        while True:
            found = await session.read(f"{REQUESTS}/{request}")
            age = time.monotonic() - began
            if cancelled_in is not None and age > cancelled_in:
                await self._remove(session, request)
                return "cancelled"
            if found is None:
                return "lost"
            if found[0]["state"] in ANSWERS:
                break
            if revised_in is not None and age > revised_in:
                revised_in = None
                await self._revise(session, request, rng)
            await asyncio.sleep(POLL_S)
        record = found[0]
        if record["state"] == "failed":
            await self._remove(session, request)
            return "failed with a reason" if reasons(record) else "failed without a reason"
        locks = await self._accept(session, request, record)
        await asyncio.sleep(use)
        return await self._let_go(session, locks, dies=dies, holds=holds)

    async def _remove(self, session: Session, request: str) -> None:
        self.judge.withdrawn(request)
        await session.remove(f"{REQUESTS}/{request}")

    async def _revise(self, session: Session, request: str, rng: random.Random) -> None:
        """Under the request's lock, and only while nobody works on it; as Zuul does."""
        lock = await session.lock(f"{REQUEST_LOCKS}/{request}", 0)
        if lock is None:
            return
        try:
            found = await session.read(f"{REQUESTS}/{request}")
            if found is not None and found[0]["state"] == "requested":
                record, version = found
                with suppress(NoNodeError, BadVersionError):
                    changed = {**record, "relative_priority": rng.randrange(10)}
                    await session.write(f"{REQUESTS}/{request}", changed, version)
                    self.judge.history.note("revised", request)
        finally:
            await session.unlock(lock)

    async def _accept(self, session: Session, request: str, record: Record) -> dict[str, Lock]:
        locks = {}
        for node in record["nodes"]:
            lock = await session.lock(f"{NODES}/{node}/lock", LOCK_S)
            found = await session.read(f"{NODES}/{node}")
            if lock is None or found is None or not _is_ours(found[0], request):
                what = f"node {node} of fulfilled request {request} is not its own: {_brief(found)}"
                self.judge.accuse("what is fulfilled is there", what, request, node)
            if lock is not None:
                locks[node] = lock
                self.judge.accepted(request, node)
        await self._remove(session, request)
        for node in locks:
            await self._set(session, node, "in-use", user_data={"zuul_system": "chaos"})
        return locks

    async def _let_go(
        self, session: Session, locks: dict[str, Lock], *, dies: bool, holds: bool
    ) -> str:
        if dies:
            for node in locks:
                self.judge.released(node, "its requestor dies")
            return "used, and died of"
        state, how = ("hold", "used, and held") if holds else ("used", "used")
        for node, lock in locks.items():
            self.judge.released(node, f"its requestor lets go: {state}")
            await self._set(session, node, state, **({"hold_expiration": 1} if holds else {}))
            await session.unlock(lock)
        return how

    async def _set(self, session: Session, node: str, state: str, **changes: object) -> None:
        found = await session.read(f"{NODES}/{node}")
        if found is not None:
            changed = {**found[0], **changes, "state": state, "state_time": time.time()}
            with suppress(NoNodeError):
                await session.write(f"{NODES}/{node}", changed)


def _is_ours(node: Record, request: str) -> bool:
    return bool(node["state"] == "ready" and node["allocated_to"] == request)


def _brief(found: tuple[Record, int] | None) -> str:
    if found is None:
        return "gone"
    return f"{found[0]['state']}, for {found[0]['allocated_to']}"


def _record(rng: random.Random) -> Record:
    """A request with Zuul's keys; most are for one node."""
    now = time.time()
    tenant = rng.choice((LIMITED_TENANT, OTHER_TENANT))
    count = rng.choice((1, 1, 1, 1, 2, 3))
    return {
        "state": "requested",
        "state_time": now,
        "created_time": now,
        "node_types": [rng.choice(LABELS) for _ in range(count)],
        "nodes": [],
        "declined_by": [],
        "requestor": "zuul-chaos",
        "requestor_data": {
            "build_set_uuid": uuid.uuid4().hex,
            "tenant_name": tenant,
            "pipeline_name": "check",
            "job_uuid": uuid.uuid4().hex,
            "job_name": "chaos-job",
            "span_info": None,
        },
        "provider": None,
        "relative_priority": rng.randrange(10),
        "tenant_name": tenant,
    }
