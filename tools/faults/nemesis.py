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
from harness.proxy import Proxy

from faults.judge import Judge
from faults.launchers import Launcher
from faults.plan import LAUNCH_S, SESSION_S, Limits, Plan
from faults.pods import Pods

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
    pods: Pods
    injected: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    times: list[tuple[float, str]] = field(default_factory=list)
    """When each began, in seconds since the beginning, and its kind."""
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One server is away at a time: their processes' list is one file."""

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
        rng = random.Random(self._rng.random())
        if kind in SERVERS or kind in OTHERS:
            self._start(kind, (SERVERS | OTHERS)[kind](self, rng))
            return
        idle = [each for each in self.launchers if not each.busy]
        if idle:
            launcher = self._rng.choice(idle)
            launcher.busy = True
            self._start(kind, self._on(launcher, kind, rng), launcher.name)

    def _start(self, kind: str, fault: Awaitable[None], *objects: str) -> None:
        self.injected[kind] += 1
        self.times.append((self.judge.history.now(), kind))
        self.judge.history.note(kind, "faults", *objects)
        self._under_way.add(asyncio.ensure_future(_run(fault)))

    async def restart(self, service: str, away: float) -> None:
        """Stop one of the cluster's servers, and start it after so many seconds."""
        assert self.cluster is not None
        async with self._server:
            await asyncio.to_thread(self.cluster.stop, service)
            await asyncio.sleep(away)
            await asyncio.to_thread(self.cluster.start, service)

    async def pause(self, service: str, away: float) -> None:
        """Freeze one of the cluster's processes for so many seconds."""
        assert self.cluster is not None
        async with self._server:
            await asyncio.to_thread(self.cluster.pause, service)
            try:
                await asyncio.sleep(away)
            finally:
                await asyncio.to_thread(self.cluster.resume, service)

    async def _on(self, launcher: Launcher, kind: str, rng: random.Random) -> None:
        try:
            await LAUNCHERS[kind](launcher, rng)
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


async def freeze(launcher: Launcher, rng: random.Random) -> None:
    """SIGSTOP for longer than its session lasts: it wakes up and believes that it has one."""
    asleep = SESSION_S + rng.uniform(1.0, 4.0)
    launcher.freeze()
    await asyncio.sleep(asleep)
    launcher.thaw()


async def nap(launcher: Launcher, rng: random.Random) -> None:
    """SIGSTOP for less than its session lasts."""
    asleep = rng.uniform(0.2, SESSION_S / 2)
    launcher.freeze()
    await asyncio.sleep(asleep)
    launcher.thaw()


async def cut_zookeeper(launcher: Launcher, rng: random.Random) -> None:
    """Its connection drops, and the next one comes to be at once."""
    await launcher.zookeeper.cut()


async def lose_zookeeper(launcher: Launcher, rng: random.Random) -> None:
    """It cannot connect for a while; sometimes its session ends meanwhile."""
    await _lose(launcher.zookeeper, rng.uniform(0.5, SESSION_S + 3.0))


async def slow_zookeeper(launcher: Launcher, rng: random.Random) -> None:
    """Whatever is said to ZooKeeper, and what it answers, takes its time."""
    await _slow(launcher.zookeeper, rng)


async def cut_api(launcher: Launcher, rng: random.Random) -> None:
    """Every connection to the API server drops, in the midst of calls."""
    await launcher.api.cut()


async def lose_api(launcher: Launcher, rng: random.Random) -> None:
    """The API server cannot be reached for a while."""
    await _lose(launcher.api, rng.uniform(0.5, 5.0))


async def slow_api(launcher: Launcher, rng: random.Random) -> None:
    """Calls and their answers take their time."""
    await _slow(launcher.api, rng)


async def api_errors(launcher: Launcher, rng: random.Random) -> None:
    """A share of the calls is answered with 409, 410, 429, 500 or 503."""
    launcher.injector.share = rng.uniform(0.05, 0.4)
    await asyncio.sleep(rng.uniform(1.0, 5.0))
    launcher.injector.share = 0.0


async def lost_answers(launcher: Launcher, rng: random.Random) -> None:
    """A share of the calls is done, and the connection drops before the answer."""
    launcher.injector.lost = rng.uniform(0.05, 0.3)
    await asyncio.sleep(rng.uniform(1.0, 5.0))
    launcher.injector.lost = 0.0


async def cut_watches(launcher: Launcher, rng: random.Random) -> None:
    """Every watch at the API server ends in the midst."""
    await launcher.injector.cut_watches()


async def _lose(proxy: Proxy, seconds: float) -> None:
    await proxy.refuse()
    await asyncio.sleep(seconds)
    proxy.restore()


async def _slow(proxy: Proxy, rng: random.Random) -> None:
    proxy.delay = rng.uniform(0.02, 0.5)
    await asyncio.sleep(rng.uniform(1.0, 4.0))
    proxy.restore()


async def break_configuration(launcher: Launcher, rng: random.Random) -> None:
    """Its configuration has an error for a while."""
    await launcher.has_started()
    launcher.break_configuration()
    await asyncio.sleep(rng.uniform(1.0, 4.0))
    launcher.mend_configuration()


LAUNCHERS: dict[str, Callable[[Launcher, random.Random], Awaitable[None]]] = {
    "kill": kill,
    "freeze": freeze,
    "nap": nap,
    "zookeeper-cut": cut_zookeeper,
    "zookeeper-lost": lose_zookeeper,
    "zookeeper-slow": slow_zookeeper,
    "api-cut": cut_api,
    "api-lost": lose_api,
    "api-slow": slow_api,
    "api-errors": api_errors,
    "api-answers-lost": lost_answers,
    "watches-cut": cut_watches,
    "configuration-broken": break_configuration,
}

# --- faults of the servers -----------------------------------------------------------------------


async def restart_zookeeper(nemesis: Nemesis, rng: random.Random) -> None:
    """Away for a moment; sessions outlive it."""
    await nemesis.restart("zookeeper", rng.uniform(0.1, 2.0))


async def restart_api(nemesis: Nemesis, rng: random.Random) -> None:
    """Away for some seconds."""
    await nemesis.restart("kube-apiserver", rng.uniform(0.1, 2.0))


async def pause_scheduler(nemesis: Nemesis, rng: random.Random) -> None:
    """No pod is scheduled for a while; sometimes for longer than a launch may take."""
    await nemesis.pause("kube-scheduler", rng.uniform(1.0, LAUNCH_S + 3.0))


async def pause_kubelet(nemesis: Nemesis, rng: random.Random) -> None:
    """Pods are scheduled and don't start."""
    await nemesis.pause("kwok", rng.uniform(1.0, LAUNCH_S + 3.0))


SERVERS: dict[str, Callable[[Nemesis, random.Random], Awaitable[None]]] = {
    "zookeeper-restart": restart_zookeeper,
    "api-restart": restart_api,
    "scheduler-paused": pause_scheduler,
    "kubelet-paused": pause_kubelet,
}

# --- faults of pods and files --------------------------------------------------------------------


async def fail_pods(nemesis: Nemesis, rng: random.Random) -> None:
    """Some of the pods that come are reported as failed."""
    await nemesis.pods.while_they_come(rng, nemesis.pods.fail)


async def evict_pods(nemesis: Nemesis, rng: random.Random) -> None:
    """Some of the pods that come are evicted, as by a kubelet that runs out of memory."""
    await nemesis.pods.while_they_come(rng, nemesis.pods.evict)


async def remove_pods(nemesis: Nemesis, rng: random.Random) -> None:
    """Some of the pods that come vanish."""
    await nemesis.pods.while_they_come(rng, nemesis.pods.remove)


async def change_limits(nemesis: Nemesis, rng: random.Random) -> None:
    """Other limits in every launcher's configuration, at much the same time."""
    limits = rng.choice((Limits(), Limits(7, 4), Limits(12, 8), Limits(5, 3)))
    nemesis.judge.limits.set(limits)
    for launcher in nemesis.launchers:
        launcher.configure(limits, 1)
        await asyncio.sleep(rng.uniform(0, 0.3))


OTHERS: dict[str, Callable[[Nemesis, random.Random], Awaitable[None]]] = {
    "pods-fail": fail_pods,
    "pods-evicted": evict_pods,
    "pods-vanish": remove_pods,
    "limits-changed": change_limits,
}

KINDS = (*LAUNCHERS, *SERVERS, *OTHERS)
"""Every kind of fault."""
