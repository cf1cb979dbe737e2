"""One run from an empty chroot to an empty chroot: load, faults, judge, and a final check."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from cluster import LocalCluster
from harness import kubeconfig
from harness.api import ApiClient, open_session
from harness.proxy import Proxy
from harness.requestor import NODES, POOLS, REQUESTS, Requestor
from harness.zookeeper import create_chroot, delete_chroot

from faults.history import History
from faults.injector import Injector
from faults.judge import Judge, claimed, limited
from faults.launchers import Launcher
from faults.load import Load
from faults.nemesis import Nemesis
from faults.plan import END_S, POOL, PROVIDER, Limits, Plan
from faults.pods import Pods
from faults.site import Place
from faults.watching import ClusterWatch, ZooKeeperWatch

LOOK_S = 0.25
THREADS = 64
"""kazoo's calls block; each life may have one under way."""
START_S = 30.0
LEDGER = f"/nodepool-k8s/ledger/{PROVIDER}/{POOL}"
TENANTS = "/nodepool-k8s/tenants"
MIN_READY = "/nodepool-k8s/min-ready"


@dataclass
class Outcome:
    """What a run has shown."""

    plan: Plan
    judge: Judge
    load: Load
    nemesis: Nemesis
    unexpected: dict[str, int] = field(default_factory=dict)
    """How many tracebacks each launcher wrote."""
    calm_s: float = 0.0
    """How long the last request took to end after the faults did."""


class Run:
    """One run of the fault harness."""

    def __init__(self, plan: Plan, cluster: LocalCluster, *, ours: bool) -> None:
        self._plan = plan
        self._cluster = cluster
        self._ours = ours
        self._place = Place(
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
        """Run all of it; raises whatever prevents the run."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        await create_chroot(self._place.hosts)
        try:
            return await self._run_in_chroot()
        finally:
            await delete_chroot(self._place.hosts)

    async def _run_in_chroot(self) -> Outcome:
        access = kubeconfig.access(self._cluster.kubeconfig, self._cluster.context)
        async with (
            Requestor.connected(self._place.hosts) as session,
            open_session(access) as api,
        ):
            watch = ZooKeeperWatch(self._place.hosts, self._judge)
            await asyncio.to_thread(watch.start)
            try:
                async with self._started(api, access.url):
                    return await self._all_acts(session, ApiClient(api, access.url))
            finally:
                await asyncio.to_thread(watch.stop)

    @asynccontextmanager
    async def _started(self, api: aiohttp.ClientSession, url: str) -> AsyncIterator[None]:
        """The launchers, each behind proxies of its own."""
        self._judge.limits.set(self._limits)
        async with AsyncExitStack() as stack:
            for number in range(1, self._plan.launchers + 1):
                name = f"launcher-{number}"
                rng = random.Random(f"{self._plan.seed} injector {number}")
                injector = await Injector(api, url, rng).start()
                stack.push_async_callback(injector.stop)
                to_api = await stack.enter_async_context(Proxy.to(injector.address))
                to_zookeeper = await stack.enter_async_context(Proxy.to(self._cluster.zookeeper))
                launcher = Launcher(
                    name,
                    self._place,
                    to_zookeeper,
                    to_api,
                    injector,
                    self._plan.upkeep,
                    self._judge,
                )
                launcher.configure(self._limits, 1)
                launcher.start()
                stack.push_async_callback(launcher.kill)
                self._launchers.append(launcher)
            yield

    # --- the acts --------------------------------------------------------------------------------

    async def _all_acts(self, session: Requestor, api: ApiClient) -> Outcome:
        await self._until(self._serving(session), START_S)
        deployment = await session.deployment()
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
            await self._return_everything(session)
            for each in background:
                if each.done():
                    each.result()
        finally:
            for each in background:
                each.cancel()
        await self._stop_the_launchers(session)
        self._read_the_logs(outcome)
        return outcome

    async def _break_things(self, load: Load, nemesis: Nemesis, session: Requestor) -> None:
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

    def _serving(self, session: Requestor) -> Callable[[], Awaitable[str]]:
        async def missing() -> str:
            registered = len(await session.children(POOLS))
            return "" if registered == self._plan.launchers else f"{registered} launchers serve"

        return missing

    # --- the end ---------------------------------------------------------------------------------

    async def _return_everything(self, session: Requestor) -> None:
        """Return every node after the last request: nothing may be left."""
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

    async def _return_spare_nodes(self, session: Requestor) -> None:
        """Mark ready nodes as used, as an operator does who deletes them."""
        for node, record in list(self._judge.nodes.items()):
            if record["state"] != "ready" or record.get("allocated_to"):
                continue
            lock = await session.try_lock(f"{NODES}/{node}/lock")
            if lock is None:
                continue
            found = await session.node(node)
            if found is not None and found["state"] == "ready":
                await session.set_node(node, state="used")
            await session.unlock(lock)

    async def _left(self, session: Requestor) -> str:
        """What is left over, read from ZooKeeper itself and not from the judge."""
        nodes = await session.children(NODES)
        requests = await session.children(REQUESTS)
        # As seen by watches on a quiet server.
        spaces, pods = self._judge.namespaces, self._judge.pods
        found = {"nodes": nodes, "requests": requests, "namespaces": spaces, "pods": pods}
        found["locks"] = await session.held_locks()
        found["ledgers"] = [text for text in await self._ledgers(session) if text]
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items() if names)

    async def _ledgers(self, session: Requestor) -> list[str]:
        """Each ledger that holds something."""
        paths = [LEDGER, *[f"{TENANTS}/{name}" for name in await session.children(TENANTS)]]
        texts = []
        for path in paths:
            amounts = (await session.get(path) or {}).get("claimed", {})
            texts.append(f"{path} {amounts}" if any(amounts.values()) else "")
        return texts

    async def _compare_ledgers(self, session: Requestor) -> None:
        """Compare each ledger with the sum of its records; again while one changes."""

        async def difference() -> str:
            texts = []
            for path, counts in ((LEDGER, claimed), (f"{TENANTS}/limited", limited)):
                before = await session.get_versioned(path)
                nodes = await session.nodes()
                after = await session.get_versioned(path)
                sums: dict[str, int] = {}
                for record in nodes.values():
                    if counts(record):
                        for name, amount in claimed(record).items():
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

    async def _stop_the_launchers(self, session: Requestor) -> None:
        """Stop them; what their sessions hold must vanish with these."""
        for launcher in self._launchers:
            launcher.busy = True
        statuses = await asyncio.gather(*(each.terminate() for each in self._launchers))
        for launcher, status in zip(self._launchers, statuses, strict=True):
            if status:
                what = f"{launcher.name} ended with status {status} at SIGTERM\n{launcher.tail()}"
                self._judge.accuse("a launcher stops on SIGTERM", what, launcher.name)

        async def left() -> str:
            names = [*await session.children(POOLS), *await session.children(MIN_READY)]
            return ", ".join([*names, *await session.held_locks()])

        # Sessions of killed launchers last until they expire.
        found = await self._until(left, 10.0)
        if found:
            self._judge.accuse("no lock without an owner", f"ephemeral znodes are left: {found}")

    def _read_the_logs(self, outcome: Outcome) -> None:
        for launcher in self._launchers:
            text = launcher.text()
            outcome.unexpected[launcher.name] = len(launcher.unexpected())
            if any(secret in text for secret in self._judge.secrets):
                self._judge.accuse("no secret in any log", f"a token is in {launcher.log}")

    async def _until(self, check: Callable[[], Awaitable[str]], within: float) -> str:
        """Check again until nothing is missing; what still is."""
        deadline = time.monotonic() + within
        while True:
            missing = await check()
            if not missing or time.monotonic() > deadline:
                return missing
            await asyncio.sleep(LOOK_S)


def _amounts(found: tuple[dict[str, dict[str, int]], int] | None) -> dict[str, int]:
    return found[0].get("claimed", {}) if found else {}
