"""Faults, one after the other and several at a time, as the seed has them. Ends each that it began.

A fault is a coroutine that breaks something, waits, and mends it. Every kind gets its turn:
they are drawn from a bag that is filled anew when it is empty.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cluster import LocalCluster

from faults.judge import Judge
from faults.launchers import Launcher
from faults.plan import Plan

PAUSES = (0.5, 2.5)
"""Seconds between two faults, at least and at most."""
DOWN_S = (0.1, 2.0)
"""How long a killed launcher stays dead."""


@dataclass
class Nemesis:
    """What breaks things."""

    plan: Plan
    launchers: list[Launcher]
    cluster: LocalCluster | None
    """Whose servers may be restarted; None: they are not ours."""
    judge: Judge
    injected: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    times: list[tuple[float, str]] = field(default_factory=list)
    """When each began, in seconds since the beginning, and its kind."""
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"{self.plan.seed} nemesis")
        wanted = self.plan.kinds or tuple(KINDS)
        self._kinds = [each for each in wanted if self.cluster or each not in SERVERS]

    async def run(self) -> None:
        """Until cancelled; faults that are under way then are ended by `calm`."""
        bag: list[str] = []
        while True:
            await asyncio.sleep(self._rng.uniform(*PAUSES))
            bag = bag or self._rng.sample(self._kinds, len(self._kinds))
            self._begin(bag.pop())
            for fault in [each for each in self._under_way if each.done()]:
                self._under_way.discard(fault)
                fault.result()

    async def calm(self) -> None:
        """Wait for the faults under way to be mended; raises what went wrong in one."""
        await asyncio.gather(*self._under_way)

    def _begin(self, kind: str) -> None:
        if kind in SERVERS:
            self._start(kind, SERVERS[kind](self, self._rng))
            return
        idle = [each for each in self.launchers if not each.busy]
        if idle:
            launcher = self._rng.choice(idle)
            launcher.busy = True
            self._start(kind, self._on(launcher, kind), launcher.name)

    def _start(self, kind: str, fault: Awaitable[None], *objects: str) -> None:
        self.injected[kind] += 1
        self.times.append((self.judge.history.now(), kind))
        self.judge.history.note(kind, "faults", *objects)
        self._under_way.add(asyncio.ensure_future(_run(fault)))

    async def _on(self, launcher: Launcher, kind: str) -> None:
        try:
            await LAUNCHERS[kind](launcher, self._rng)
            self.judge.history.note(f"{kind}: mended", "faults", launcher.name)
        finally:
            launcher.busy = False


async def _run(fault: Awaitable[None]) -> None:
    await fault


# --- faults of one launcher ----------------------------------------------------------------------


async def kill(launcher: Launcher, rng: random.Random) -> None:
    """kill -9, and the supervisor starts it again."""
    down = rng.uniform(*DOWN_S)
    await launcher.kill()
    await asyncio.sleep(down)
    launcher.start()


LAUNCHERS: dict[str, Callable[[Launcher, random.Random], Awaitable[None]]] = {
    "kill": kill,
}

# --- faults of the servers -----------------------------------------------------------------------

SERVERS: dict[str, Callable[[Nemesis, random.Random], Awaitable[None]]] = {}

KINDS = (*LAUNCHERS, *SERVERS)
"""Every kind of fault."""
