"""One run from an empty chroot to an empty chroot: load, faults, judge, and the look at the end."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from benchmark import kubeconfig
from cluster import LocalCluster

from faults.history import History
from faults.injector import Injector
from faults.judge import Judge, claimed, limited
from faults.launchers import Launcher
from faults.load import NODES, REQUEST_LOCKS, REQUESTS, Load
from faults.nemesis import Nemesis
from faults.plan import END_S, POOL, PROVIDER, Limits, Plan
from faults.pods import Pods
from faults.session import Session
from faults.site import Place
from faults.watching import ClusterWatch, ZooKeeperWatch
from faults.wire import Wire

LOOK_S = 0.25
THREADS = 64
"""kazoo's calls block; each life may have one under way."""
START_S = 30.0
POOLS = "/nodepool/components/pool"
LEDGER = f"/nodepool-k8s/ledger/{PROVIDER}/{POOL}"
TENANTS = "/nodepool-k8s/tenants"
MIN_READY = "/nodepool-k8s/min-ready"
DEPLOYMENT = "/nodepool-k8s/deployment"


@dataclass
class Outcome:
    """What a run has shown."""

    plan: Plan
    judge: Judge
    load: Load
    nemesis: Nemesis
    unforeseen: dict[str, int] = field(default_factory=dict)
    """How many tracebacks each launcher wrote."""
    calm_s: float = 0.0
    """How long the last request took to end after the faults did."""


class Run:
    """The run under way."""

    def __init__(self, plan: Plan, cluster: LocalCluster, *, ours: bool) -> None:
        self._plan = plan
        self._cluster = cluster
        self._ours = ours
        self._place = Place(
            str(cluster.kubeconfig),
            cluster.context,
            cluster.zookeeper,
            f"/chaos-{uuid.uuid4().hex}",
            cluster.image,
            plan.folder,
            plan.fair_share,
        )
        self._judge = Judge(History(), plan.upkeep)
        self._launchers: list[Launcher] = []
        self._limits = Limits()

    async def run(self) -> Outcome:
        """All of it. Raises what keeps a run from taking place."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        bare = await Session(self._cluster.zookeeper).start()
        await bare.ensure(self._place.chroot)
        try:
            return await self._run_in_chroot()
        finally:
            await bare.remove_all(self._place.chroot)
            await bare.stop()

    async def _run_in_chroot(self) -> Outcome:
        session = await Session(self._place.hosts).start()
        url, tls, headers = kubeconfig.access(self._place.kubeconfig, self._place.context)
        connector = aiohttp.TCPConnector(ssl=tls, limit=0)
        try:
            async with aiohttp.ClientSession(url, connector=connector, headers=headers) as api:
                watch = ZooKeeperWatch(self._place.hosts, self._judge)
                await asyncio.to_thread(watch.start)
                try:
                    async with self._started(api, url):
                        return await self._all_acts(session, api)
                finally:
                    await asyncio.to_thread(watch.stop)
        finally:
            await session.stop()

    @asynccontextmanager
    async def _started(self, api: aiohttp.ClientSession, url: str) -> AsyncIterator[None]:
        """The launchers, each on its own wires."""
        parts: list[Wire | Injector] = []
        self._judge.limits.set(self._limits)
        try:
            for number in range(1, self._plan.launchers + 1):
                name = f"launcher-{number}"
                rng = random.Random(f"{self._plan.seed} injector {number}")
                zookeeper = await Wire(self._cluster.zookeeper).start()
                injector = await Injector(api, url, rng).start()
                wire = await Wire(injector.address).start()
                parts += [zookeeper, wire, injector]
                launcher = Launcher(
                    name, self._place, zookeeper, wire, injector, self._plan.upkeep, self._judge
                )
                launcher.configure(self._limits, 1)
                launcher.start()
                self._launchers.append(launcher)
            yield
        finally:
            for launcher in self._launchers:
                launcher.thaw()
                await launcher.kill()
            for part in parts:
                await part.stop()

    # --- the acts --------------------------------------------------------------------------------

    async def _all_acts(self, session: Session, api: aiohttp.ClientSession) -> Outcome:
        await self._until(self._serving(session), START_S)
        deployment = await session.text(DEPLOYMENT)
        eyes = ClusterWatch(api, deployment, self._judge)
        load = Load(self._place.hosts, self._plan, self._judge)
        cluster = self._cluster if self._ours else None
        pods = Pods(api, self._judge)
        nemesis = Nemesis(self._plan, self._launchers, cluster, self._judge, pods)
        outcome = Outcome(self._plan, self._judge, load, nemesis)
        background = [
            asyncio.create_task(each)
            for each in (eyes.watch_namespaces(), eyes.watch_pods(), self._look())
        ]
        try:
            await self._break_things(load, nemesis, session)
            calm = time.monotonic()
            await load.finish(END_S)
            outcome.calm_s = time.monotonic() - calm
            await self._empty_the_house(session)
            for each in background:
                if each.done():
                    each.result()
        finally:
            for each in background:
                each.cancel()
        await self._stop_the_launchers(session)
        self._read_the_logs(outcome)
        return outcome

    async def _break_things(self, load: Load, nemesis: Nemesis, session: Session) -> None:
        running = [asyncio.create_task(each) for each in (load.run(session), nemesis.run())]
        done, _ = await asyncio.wait(
            running, timeout=self._plan.seconds, return_when=asyncio.FIRST_COMPLETED
        )
        load.stop()
        running[1].cancel()
        await nemesis.calm()
        self._judge.limits.set(self._limits)
        for launcher in self._launchers:
            launcher.configure(self._limits, 1)
        await asyncio.gather(running[0])
        for each in done:
            each.result()

    async def _look(self) -> None:
        while True:
            self._judge.look()
            for launcher in self._launchers:
                launcher.check()
            await asyncio.sleep(LOOK_S)

    def _serving(self, session: Session) -> Callable[[], Awaitable[str]]:
        async def missing() -> str:
            registered = len(await session.children(POOLS))
            return "" if registered == self._plan.launchers else f"{registered} launchers serve"

        return missing

    # --- the end ---------------------------------------------------------------------------------

    async def _empty_the_house(self, session: Session) -> None:
        """Nothing is asked for any more, everything is returned: nothing may be left."""
        await self._compare_ledgers(session)
        for launcher in self._launchers:
            launcher.configure(self._limits, 0)

        async def left() -> str:
            await self._return_spare_nodes(session)
            return await self._left(session)

        found = await self._until(left, END_S)
        if found:
            names = (*self._judge.nodes, *self._judge.requests, *self._judge.namespaces)
            self._judge.accuse("nothing is left", found, *names)

    async def _return_spare_nodes(self, session: Session) -> None:
        """As an operator who deletes what is ready."""
        for node, record in list(self._judge.nodes.items()):
            if record["state"] != "ready" or record.get("allocated_to"):
                continue
            lock = await session.lock(f"{NODES}/{node}/lock", 0)
            if lock is None:
                continue
            found = await session.read(f"{NODES}/{node}")
            if found is not None and found[0]["state"] == "ready":
                await session.write(f"{NODES}/{node}", {**found[0], "state": "used"})
            await session.unlock(lock)

    async def _left(self, session: Session) -> str:
        """What there is that should not be; asked of ZooKeeper itself, not of the judge."""
        nodes = await session.children(NODES)
        requests = await session.children(REQUESTS)
        # As seen by watches on a quiet server.
        spaces, pods = self._judge.namespaces, self._judge.pods
        found = {"nodes": nodes, "requests": requests, "namespaces": spaces, "pods": pods}
        found["locks"] = await _held_locks(session)
        found["ledgers"] = [text for text in await self._ledgers(session) if text]
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items() if names)

    async def _ledgers(self, session: Session) -> list[str]:
        """Each ledger that holds something."""
        paths = [LEDGER, *[f"{TENANTS}/{name}" for name in await session.children(TENANTS)]]
        texts = []
        for path in paths:
            found = await session.read(path)
            amounts = found[0].get("claimed", {}) if found else {}
            texts.append(f"{path} {amounts}" if any(amounts.values()) else "")
        return texts

    async def _compare_ledgers(self, session: Session) -> None:
        """The ledgers are the sums of the records; while a step is under way, look again."""

        async def difference() -> str:
            texts = []
            for path, counts in ((LEDGER, claimed), (f"{TENANTS}/limited", limited)):
                before = await session.read(path)
                records = [
                    await session.read(f"{NODES}/{n}") for n in await session.children(NODES)
                ]
                after = await session.read(path)
                sums: dict[str, int] = {}
                for found in records:
                    if found is not None and counts(found[0]):
                        for name, amount in claimed(found[0]).items():
                            sums[name] = sums.get(name, 0) + amount
                if before != after:
                    return f"{path} changes"
                held = {name: n for name, n in _amounts(before).items() if n}
                if held != sums:
                    texts.append(f"{path} holds {held}, its nodes {sums}")
            return "; ".join(texts)

        found = await self._until(difference, END_S / 2)
        if found and "changes" not in found:
            self._judge.accuse("the ledger is the sum of its nodes", found, *self._judge.nodes)

    async def _stop_the_launchers(self, session: Session) -> None:
        """What they hold by their sessions goes with them."""
        for launcher in self._launchers:
            launcher.busy = True
        statuses = await asyncio.gather(*(each.terminate() for each in self._launchers))
        for launcher, status in zip(self._launchers, statuses, strict=True):
            if status:
                what = f"{launcher.name} ended with status {status} at SIGTERM\n{launcher.tail()}"
                self._judge.accuse("a launcher stops when told", what, launcher.name)

        async def left() -> str:
            names = [*await session.children(POOLS), *await session.children(MIN_READY)]
            return ", ".join([*names, *await _held_locks(session)])

        # Of sessions whose launchers were killed, it stays as long as these.
        found = await self._until(left, 10.0)
        if found:
            self._judge.accuse("no lock without an owner", f"ephemeral znodes are left: {found}")

    def _read_the_logs(self, outcome: Outcome) -> None:
        for launcher in self._launchers:
            text = launcher.text()
            outcome.unforeseen[launcher.name] = len(launcher.unforeseen())
            if any(secret in text for secret in self._judge.secrets):
                self._judge.accuse("no secret in any log", f"a token is in {launcher.log}")

    async def _until(self, check: Callable[[], Awaitable[str]], within: float) -> str:
        """Look again until nothing is missing; what still is."""
        deadline = time.monotonic() + within
        while True:
            missing = await check()
            if not missing or time.monotonic() > deadline:
                return missing
            await asyncio.sleep(LOOK_S)


async def _held_locks(session: Session) -> list[str]:
    held = []
    for name in await session.children(REQUEST_LOCKS):
        held += await session.children(f"{REQUEST_LOCKS}/{name}")
    for name in await session.children(NODES):
        held += await session.children(f"{NODES}/{name}/lock")
    return held


def _amounts(found: tuple[dict[str, dict[str, int]], int] | None) -> dict[str, int]:
    return found[0].get("claimed", {}) if found else {}
