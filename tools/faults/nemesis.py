"""Faults, one after the other and several at a time, as the seed determines.

A fault is a coroutine that breaks something, waits, and repairs it. Every kind gets its turn:
they are drawn from a bag that is refilled when it is empty.
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
"""Seconds between two faults: minimum and maximum."""
DOWN_S = (0.1, 2.0)
"""Seconds until a killed launcher is restarted."""


@dataclass
class Nemesis:
    """Injects the faults of a run."""

    plan: Plan
    launchers: list[Launcher]
    cluster: LocalCluster | None
    """The cluster whose servers may be restarted; None if they belong to the user."""
    judge: Judge
    pods: Pods
    injected: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    times: list[tuple[float, str]] = field(default_factory=list)
    """When each began, in seconds since the start, and its kind."""
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One server is stopped at a time: the list of their processes is one file."""

    def __post_init__(self) -> None:
        self._rng = random.Random(f"{self.plan.seed} nemesis")
        wanted = self.plan.kinds or tuple(KINDS)
        self._kinds = [each for each in wanted if self.cluster or each not in SERVERS]

    async def run(self) -> None:
        """Inject faults until cancelled; `calm` awaits those under way."""
        bag: list[str] = []
        while True:
            await asyncio.sleep(self._rng.uniform(*PAUSES))
            bag = bag or self._rng.sample(self._kinds, len(self._kinds))
            self._begin(bag.pop())
            for fault in [each for each in self._under_way if each.done()]:
                self._under_way.discard(fault)
                fault.result()

    async def calm(self) -> None:
        """Wait until the faults under way are repaired; raises the error of one that failed."""
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
        """Stop one of the cluster's servers, and start it again after some seconds."""
        assert self.cluster is not None
        async with self._server:
            await asyncio.to_thread(self.cluster.stop, service)
            await asyncio.sleep(away)
            await asyncio.to_thread(self.cluster.start, service)

    async def pause(self, service: str, away: float) -> None:
        """Freeze one of the cluster's processes for some seconds."""
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
            self.judge.history.note(f"{kind}: repaired", "faults", launcher.name)
        finally:
            launcher.busy = False


async def _run(fault: Awaitable[None]) -> None:
    await fault


# --- faults of one launcher ----------------------------------------------------------------------


async def kill(launcher: Launcher, rng: random.Random) -> None:
    """SIGKILL; then its supervisor restarts it."""
    down = rng.uniform(*DOWN_S)
    await launcher.kill()
    await asyncio.sleep(down)
    launcher.start()


async def freeze(launcher: Launcher, rng: random.Random) -> None:
    """SIGSTOP for longer than its session lasts: it wakes up with an expired session."""
    asleep = SESSION_S + rng.uniform(1.0, 4.0)
    launcher.freeze()
    await asyncio.sleep(asleep)
    launcher.thaw()


async def nap(launcher: Launcher, rng: random.Random) -> None:
    """SIGSTOP for a shorter time than its session lasts."""
    asleep = rng.uniform(0.2, SESSION_S / 2)
    launcher.freeze()
    await asyncio.sleep(asleep)
    launcher.thaw()


async def cut_zookeeper(launcher: Launcher, rng: random.Random) -> None:
    """Its connection is cut, and it can reconnect at once."""
    await launcher.zookeeper.cut()


async def lose_zookeeper(launcher: Launcher, rng: random.Random) -> None:
    """It cannot connect for a while; sometimes its session expires in that time."""
    await _lose(launcher.zookeeper, rng.uniform(0.5, SESSION_S + 3.0))


async def slow_zookeeper(launcher: Launcher, rng: random.Random) -> None:
    """Calls to ZooKeeper and their answers are delayed."""
    await _slow(launcher.zookeeper, rng)


async def cut_api(launcher: Launcher, rng: random.Random) -> None:
    """Every connection to the API server is cut, in the middle of calls."""
    await launcher.api.cut()


async def lose_api(launcher: Launcher, rng: random.Random) -> None:
    """The API server cannot be reached for a while."""
    await _lose(launcher.api, rng.uniform(0.5, 5.0))


async def slow_api(launcher: Launcher, rng: random.Random) -> None:
    """Calls to the API server and their answers are delayed."""
    await _slow(launcher.api, rng)


async def api_errors(launcher: Launcher, rng: random.Random) -> None:
    """A share of the calls is answered with 409, 410, 429, 500 or 503."""
    launcher.injector.share = rng.uniform(0.05, 0.4)
    await asyncio.sleep(rng.uniform(1.0, 5.0))
    launcher.injector.share = 0.0


async def lost_answers(launcher: Launcher, rng: random.Random) -> None:
    """A share of the calls is executed, and the connection is cut before the answer."""
    launcher.injector.lost = rng.uniform(0.05, 0.3)
    await asyncio.sleep(rng.uniform(1.0, 5.0))
    launcher.injector.lost = 0.0


async def cut_watches(launcher: Launcher, rng: random.Random) -> None:
    """Every watch at the API server ends early."""
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
    launcher.restore_configuration()


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
    """ZooKeeper restarts; sessions survive."""
    await nemesis.restart("zookeeper", rng.uniform(0.1, 2.0))


async def restart_api(nemesis: Nemesis, rng: random.Random) -> None:
    """The API server restarts."""
    await nemesis.restart("kube-apiserver", rng.uniform(0.1, 2.0))


async def pause_scheduler(nemesis: Nemesis, rng: random.Random) -> None:
    """No pod is scheduled for a while; sometimes for longer than a launch may take."""
    await nemesis.pause("kube-scheduler", rng.uniform(1.0, LAUNCH_S + 3.0))


async def pause_kubelet(nemesis: Nemesis, rng: random.Random) -> None:
    """Pods are scheduled and do not start."""
    await nemesis.pause("kwok", rng.uniform(1.0, LAUNCH_S + 3.0))


SERVERS: dict[str, Callable[[Nemesis, random.Random], Awaitable[None]]] = {
    "zookeeper-restart": restart_zookeeper,
    "api-restart": restart_api,
    "scheduler-paused": pause_scheduler,
    "kubelet-paused": pause_kubelet,
}

# --- faults of pods and files --------------------------------------------------------------------


async def fail_pods(nemesis: Nemesis, rng: random.Random) -> None:
    """Some new pods are reported as failed."""
    await nemesis.pods.while_they_come(rng, nemesis.pods.fail)


async def evict_pods(nemesis: Nemesis, rng: random.Random) -> None:
    """Some new pods are evicted, as by a kubelet that runs out of memory."""
    await nemesis.pods.while_they_come(rng, nemesis.pods.evict)


async def remove_pods(nemesis: Nemesis, rng: random.Random) -> None:
    """Some new pods are deleted."""
    await nemesis.pods.while_they_come(rng, nemesis.pods.remove)


async def change_limits(nemesis: Nemesis, rng: random.Random) -> None:
    """Every launcher's configuration gets other limits, at nearly the same time."""
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
