"""The load: requests that are submitted, revised, cancelled, accepted, held and returned.

Each request has a task and a random number generator of its own, so that what is done with it
does not depend on the timing of the others.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from harness.requestor import ANSWERS, Requestor, zuul_request
from harness.zookeeper import Record, ZooKeeperError
from kazoo.exceptions import NoNodeError
from kazoo.recipe.lock import Lock

from faults.judge import Judge, reasons
from faults.plan import LABELS, LIMITED_TENANT, OTHER_TENANT, Plan

PRIORITIES = (100, 200, 300)
POLL_S = 0.15
MOST_USE_S = 2.0
MOST_CANCEL_S = 4.0

CANCELS, REVISES, HOLDS, DIES = 0.15, 0.2, 0.1, 0.1
"""The share of the requests with which that is done."""


@dataclass
class Load:
    """Requests, as many at a time as the plan says, until told to stop."""

    hosts: str
    plan: Plan
    judge: Judge
    ended: Counter[str] = field(default_factory=Counter)
    """Requests by how they ended."""
    _tasks: dict[asyncio.Task[None], str] = field(default_factory=dict)
    """Each task, and the id of its request once that is submitted."""
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, session: Requestor) -> None:
        """Submit requests until `stop`."""
        number = 0
        while not self._stopping.is_set():
            while len(self._tasks) < self.plan.requestors:
                number += 1
                rng = random.Random(f"{self.plan.seed} life {number}")
                task = asyncio.create_task(self._serve(session, rng))
                self._tasks[task] = ""
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._remove_ended()

    def stop(self) -> None:
        """Submit no more requests; those under way go on to their ends."""
        self._stopping.set()

    async def finish(self, within: float) -> None:
        """Await the end of every request; those that do not end are violations."""
        deadline = time.monotonic() + within
        while self._tasks and time.monotonic() < deadline:
            await asyncio.wait(self._tasks, timeout=POLL_S)
            self._remove_ended()
        for task, request in self._tasks.items():
            task.cancel()
            self.ended["no end"] += 1
            state = self.judge.requests.get(request, {}).get("state", "gone")
            what = f"request {request} is {state} after {within:.0f} s without faults"
            self.judge.accuse("every request ends", what, request)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _remove_ended(self) -> None:
        for task in [each for each in self._tasks if each.done()]:
            del self._tasks[task]
            task.result()

    # --- one request ------------------------------------------------------------------------

    async def _serve(self, common: Requestor, rng: random.Random) -> None:
        if rng.random() >= DIES:
            self.ended[await self._request(common, rng, dies=False)] += 1
            return
        # A session of its own, which ends without releasing the locks that it holds.
        async with Requestor.connected(self.hosts) as own:
            self.ended[await self._request(own, rng, dies=True)] += 1

    async def _request(self, session: Requestor, rng: random.Random, *, dies: bool) -> str:
        priority = rng.choice(PRIORITIES)
        request = await session.submit_record(_record(rng), priority)
        current = asyncio.current_task()
        assert current is not None
        self._tasks[current] = request
        revised_in = rng.uniform(0, MOST_CANCEL_S) if rng.random() < REVISES else None
        cancelled_in = rng.uniform(0, MOST_CANCEL_S) if rng.random() < CANCELS else None
        use = rng.uniform(0, MOST_USE_S)
        holds = not dies and rng.random() < HOLDS
        began = time.monotonic()
        while True:
            record = await session.request(request)
            age = time.monotonic() - began
            if cancelled_in is not None and age > cancelled_in:
                await self._remove(session, request)
                return "cancelled"
            if record is None:
                return "lost"
            if record["state"] in ANSWERS:
                break
            if revised_in is not None and age > revised_in:
                revised_in = None
                if await session.revise(request, relative_priority=rng.randrange(10)):
                    self.judge.history.note("revised", request)
            await asyncio.sleep(POLL_S)
        if record["state"] == "failed":
            await self._remove(session, request)
            return "failed with a reason" if reasons(record) else "failed without a reason"
        locks = await self._accept(session, request, record)
        await asyncio.sleep(use)
        return await self._let_go(session, locks, dies=dies, holds=holds)

    async def _remove(self, session: Requestor, request: str) -> None:
        self.judge.withdrawn(request)
        await session.cancel(request)

    async def _accept(self, session: Requestor, request: str, record: Record) -> dict[str, Lock]:
        locks = {}
        for node in record["nodes"]:
            try:
                locks[node] = await session.lock_node(node, request)
            except ZooKeeperError as error:
                self.judge.accuse("what is fulfilled is there", str(error), request, node)
            else:
                self.judge.accepted(request, node)
        await self._remove(session, request)
        for node in locks:
            with suppress(NoNodeError):
                await session.use(node)
        return locks

    async def _let_go(
        self, session: Requestor, locks: dict[str, Lock], *, dies: bool, holds: bool
    ) -> str:
        if dies:
            for node in locks:
                self.judge.released(node, "its requestor dies")
            return "used, and died of"
        state, how = ("hold", "used, and held") if holds else ("used", "used")
        for node, lock in locks.items():
            self.judge.released(node, f"its requestor lets go: {state}")
            with suppress(NoNodeError):
                await session.set_node(
                    node, state=state, **({"hold_expiration": 1} if holds else {})
                )
            await session.unlock(lock)
        return how


def _record(rng: random.Random) -> Record:
    """A request; most are for one node."""
    tenant = rng.choice((LIMITED_TENANT, OTHER_TENANT))
    count = rng.choice((1, 1, 1, 1, 2, 3))
    labels = [rng.choice(LABELS) for _ in range(count)]
    return zuul_request(labels, tenant, relative_priority=rng.randrange(10))
