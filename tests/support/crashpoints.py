"""One launcher dies at one point of a story, and the next one ends it: what must be so then.

Each run has a ZooKeeper chroot and a pool of its own, so that many go on side by side.
"""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import LocalCluster
from kazoo.client import KazooClient
from kazoo.recipe.lock import Lock

from nodepool_k8s.launcher.intervals import Intervals
from tests.support import crashing
from tests.support.admin import DEPLOYMENT, Admin, Object, Refused
from tests.support.crashing import KILLED, CrashPoint, Effect
from tests.support.launchers import RunningLauncher
from tests.support.site import Options, Site, SiteMaker
from tests.support.waiting import PATIENCE_S, eventually
from tests.support.zuul import LEDGERS, NODES, POOLS, REQUEST_LOCKS, REQUESTS, LedgerWatch, Zuul

HOMES = "/nodepool-k8s/clusters"


QUICK = Intervals(upkeep=1.0)
"""Upkeep often, so that what it alone finds is found while the test waits."""

QUICK_SESSION = {"zookeeper-timeout": 4}
"""ZooKeeper's least; a dead launcher's locks are free that soon."""

DRAIN_S = 5.0
"""Two thirds of it are waited for the launch; the rest is enough to delete its node."""

LOOK_S = 0.2

DEATH_S = 5.0
"""An effect that ends a story may be seen before the death that follows it."""

Doing = Callable[["Play"], Awaitable[None]]


@dataclass(frozen=True)
class Story:
    """Something that happens to a launcher, from its start to where nothing more is to come."""

    title: str
    """As the table of crash points has it."""
    labels: tuple[Options, ...]
    doing: Doing
    """What the requestor does. Whether a launcher dies meanwhile makes no difference to it."""
    limit: int = 1
    """The pool's ``max-servers``: no more than the story needs at once."""
    phase: str = crashing.SERVE
    """Which of its effects are crash points of this story."""
    top: Options = field(default_factory=dict)
    provider: Options = field(default_factory=dict)


class Play:
    """One story being played, in a chroot of its own."""

    def __init__(self, story: Story, cluster: LocalCluster, admin: Admin, folder: Path) -> None:
        self.story = story
        self._cluster = cluster
        self.folder = folder
        """Where the dying launcher's log is."""
        self._admin = admin
        self._make_site = SiteMaker(cluster, f"/test-{uuid.uuid4().hex}", folder)
        self.site = self._site(story.top)
        self.zuul = Zuul(self.site.hosts)
        self._watch = LedgerWatch(self.site.hosts, self._make_site.pool)
        self._used: dict[str, str] = {}
        """By node: the request that it was given to, and taken by."""
        self._deployment: str | None = None
        self._over: list[str] = []
        self.process: Any = None
        """The launcher that dies."""

    def _site(self, top: Options) -> Site:
        pool = {"max-servers": self.story.limit}
        return self._make_site(
            *self.story.labels,
            pool=pool,
            provider=self.story.provider,
            top={**QUICK_SESSION, **top},
        )

    # --- the whole ------------------------------------------------------------------------------

    async def record(self) -> list[Effect]:
        """Play it without a death; the launcher's effects, in their order."""
        async with self._in_zookeeper():
            return await self._recorded()

    async def crash(self, point: CrashPoint) -> None:
        """Play it with a launcher that dies there, and a second one that ends it.

        Raises AssertionError where anything is not as it must be.
        """
        async with self._in_zookeeper():
            await self._crashed(point)

    @asynccontextmanager
    async def _in_zookeeper(self) -> AsyncIterator[None]:
        await self._with_bare(lambda kazoo: kazoo.ensure_path(self.site.chroot))
        await self.zuul.start()
        await asyncio.to_thread(self._watch.start)
        try:
            yield
        finally:
            if self.process is not None and self.process.exitcode is None:
                self.process.kill()
            await asyncio.to_thread(self._watch.stop)
            await self.zuul.stop()
            await self._with_bare(lambda kazoo: kazoo.delete(self.site.chroot, recursive=True))

    async def _with_bare(self, act: Callable[[Any], object]) -> None:
        def do() -> None:
            kazoo = KazooClient(hosts=self._cluster.zookeeper)
            kazoo.start()
            try:
                act(kazoo)
            finally:
                kazoo.stop()
                kazoo.close()

        await asyncio.to_thread(do)

    def _start(self, point: CrashPoint | None) -> None:
        self.process = crashing.start(
            self.site.path, self._cluster.kubeconfig, self.folder, point, DRAIN_S
        )

    async def _recorded(self) -> list[Effect]:
        self._start(None)
        await self._tell()
        if self.process.exitcode is None:
            await self.settled()
            self.process.kill()
            await self.ended()
        effects = crashing.noted(self.folder / "notes")
        next_one = await RunningLauncher(self.site, [], QUICK).ready()
        await self._leave_nothing(next_one)
        return [effect for effect in effects if effect.phase == self.story.phase]

    async def _crashed(self, point: CrashPoint) -> None:
        looking = asyncio.create_task(self._keep_looking())
        self._start(point)
        doing = asyncio.ensure_future(self._tell_and_settle())
        second: RunningLauncher | None = None
        try:
            ended = asyncio.ensure_future(self.ended())
            await asyncio.wait({ended, doing}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await doing
                await self.ended(DEATH_S)
            assert self.process.exitcode == KILLED, f"it ended with {self.process.exitcode}"
            # Nobody does anything now: what is there has to be right as it stands.
            await self._look()
            second = RunningLauncher(self.site, [], QUICK)
            await second.ready()
            await doing
            await self._look()
            await self._leave_nothing(second)
        finally:
            for task in (doing, looking):
                task.cancel()
            await asyncio.wait({doing, looking})
            if second is not None and not second.task.done():
                second.task.cancel()
                await asyncio.wait({second.task})
        if not looking.cancelled():
            looking.result()
        assert not self._over, self._over

    async def _tell_and_settle(self) -> None:
        await self._tell()
        await self.settled()

    async def _tell(self) -> None:
        await self._begun()
        if self.process.exitcode is None:
            os.kill(self.process.pid, signal.SIGUSR1)
        await self.story.doing(self)

    async def _begun(self) -> None:
        """Wait until a launcher serves, and its first upkeep is done."""

        async def done() -> bool:
            seen = [await self.zuul.children(path) for path in (POOLS, HOMES, LEDGERS)]
            return all(seen)

        await eventually(done, "a launcher at work")

    # --- what a story is made of ---------------------------------------------------------------

    async def ended(self, timeout: float = PATIENCE_S) -> None:
        """Wait until the launcher that dies has ended."""
        await eventually(lambda: self.process.exitcode is not None, "its death", timeout)

    async def settled(self) -> None:
        """Wait until the request's lock is gone, which is the last thing to go."""

        async def no_lock() -> bool:
            return not await self.zuul.children(REQUEST_LOCKS)

        await eventually(no_lock, "request locks gone")

    async def accept(self, request_id: str) -> dict[str, Lock]:
        """What a requestor does with a fulfilled request; the locks of its nodes."""
        await self.zuul.answered(request_id)
        locks = await self.zuul.accept(request_id)
        twice = locks.keys() & self._used.keys()
        assert not twice, f"{twice} were given to {self._used}, and to {request_id}"
        self._used |= dict.fromkeys(locks, request_id)
        return locks

    async def pods(self) -> list[Object]:
        """The pods of this deployment."""
        if self._deployment is None:
            if not await self.zuul.do(self.zuul.kazoo.exists, "/nodepool-k8s/deployment"):
                return []
            self._deployment = await self.zuul.deployment()
        selector = f"labelSelector={DEPLOYMENT}={self._deployment}"
        found: list[Object] = (await self._admin.call("GET", f"/api/v1/pods?{selector}"))["items"]
        return found

    async def set_pods(self, status: Object) -> None:
        """Say that of every pod that appears, until cancelled."""
        while True:
            for pod in await self.pods():
                if pod["status"].get("phase") != status["phase"]:
                    metadata = pod["metadata"]
                    with suppress(Refused):  # It went meanwhile.
                        await self._admin.set_status(
                            metadata["namespace"], status, metadata["name"]
                        )
            await asyncio.sleep(LOOK_S)

    # --- what has to be so ------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        """Quota, ledger, and that no node is given twice, at this moment."""
        nodes = await asyncio.to_thread(self._watch.look)
        if nodes > self.story.limit:
            self._over.append(f"{nodes} nodes")
        if self._watch.differences:
            self._over.append(f"ledger and sums: {self._watch.differences}")
        pods = [pod for pod in await self.pods() if pod["status"].get("phase") != "Failed"]
        if len(pods) > self.story.limit:
            self._over.append(f"pods {[pod['metadata']['namespace'] for pod in pods]}")
        given = dict(self._used)
        for request_id in await self.zuul.children(REQUESTS):
            request = await self.zuul.request(request_id)
            if request is not None and request["state"] == "fulfilled":
                for node_id in request["nodes"]:
                    owner = given.setdefault(node_id, request_id)
                    if owner != request_id:
                        self._over.append(f"node {node_id} given to {owner} and {request_id}")

    async def _leave_nothing(self, launcher: RunningLauncher) -> None:
        """Return everything; no record, lock, count, pod or namespace stays."""
        if self.story.top:
            self.site.become(self._site({}))
            await eventually(lambda: "min-ready" not in str(launcher.launcher.settings.labels))

        async def nothing() -> bool:
            await self.zuul.tidy()
            left = [await self.zuul.children(path) for path in (NODES, REQUESTS, REQUEST_LOCKS)]
            assert not any(left), left
            return True

        await eventually(nothing, "records and locks gone")
        deployment = await self.zuul.deployment()

        async def no_namespace() -> bool:
            left = await self._admin.namespaces(deployment)
            assert not left, [entry["metadata"]["name"] for entry in left]
            return not await self.pods()

        await eventually(no_namespace, "namespaces and pods gone")
        for pool, claimed in (await self.zuul.ledgers()).items():
            assert not any(claimed.values()), (pool, claimed)
        await launcher.stop()

        async def nothing_ephemeral() -> bool:
            return not await self.zuul.components() and not await self.zuul.held_locks()

        await eventually(nothing_ephemeral, "no pool registered, no lock held")


# --- many of them ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Death:
    """A launcher that is to die at a point of a story."""

    story: str
    point: CrashPoint

    def __str__(self) -> str:
        effect = self.point.effect
        return f"{self.story}, {self.point.when} {effect.name} #{effect.occurrence}"


class Plays:
    """Plays stories, so many at a time."""

    def __init__(
        self,
        stories: dict[str, Story],
        cluster: LocalCluster,
        admin: Admin,
        folder: Path,
        together: int,
    ) -> None:
        self._stories = stories
        self._cluster = cluster
        self._admin = admin
        self._folder = folder
        self._room = asyncio.Semaphore(together)

    def _play(self, story: str, name: str) -> Play:
        folder = self._folder / f"{story}-{name}"
        folder.mkdir()
        return Play(self._stories[story], self._cluster, self._admin, folder)

    async def record(self) -> dict[str, list[Effect]]:
        """The effects of each story, in the order in which they came."""

        async def one(story: str) -> list[Effect]:
            async with self._room:
                return await self._play(story, "recorded").record()

        found = await asyncio.gather(*(one(story) for story in self._stories))
        return dict(zip(self._stories, found, strict=True))

    async def die(self, deaths: Sequence[Death]) -> dict[Death, str]:
        """Die at each of them; what was wrong, empty where nothing was."""

        async def one(number: int, death: Death) -> str:
            async with self._room:
                play = self._play(death.story, f"{number:03d}")
                try:
                    await play.crash(death.point)
                except AssertionError as error:
                    return f"{error} ({play.folder})"
            return ""

        found = await asyncio.gather(*(one(*entry) for entry in enumerate(deaths)))
        return dict(zip(deaths, found, strict=True))
