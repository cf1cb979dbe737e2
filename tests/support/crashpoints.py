"""One launcher dies at one point of a story, the next one finishes it, and the result is checked.

Each run has a ZooKeeper chroot and a pool of its own, so that many go on side by side.
"""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import LocalCluster
from harness.api import ApiError, Object
from harness.requestor import LEDGERS, NODES, REQUEST_LOCKS, REQUESTS
from harness.zookeeper import create_chroot, delete_chroot
from kazoo.recipe.lock import Lock

from nodepool_k8s.launcher.intervals import NORMAL, Intervals
from tests.support import crashing
from tests.support.admin import DEPLOYMENT, Admin
from tests.support.crashing import AFTER, BEFORE, KILLED, CrashPoint, Effect
from tests.support.crashtable import Row
from tests.support.launchers import RunningLauncher
from tests.support.site import Options, Site, SiteMaker
from tests.support.waiting import eventually
from tests.support.zuul import LedgerWatch, Zuul

HOMES = "/nodepool-k8s/clusters"
TENANTS = "/nodepool-k8s/tenants"


QUICK = Intervals(upkeep=1.0)
"""Frequent upkeep, so that a test does not wait for what only upkeep finds."""

QUICK_SESSION = {"zookeeper-timeout": 4}
"""ZooKeeper's minimum; a dead launcher's locks are released after it."""

DRAIN_S = 5.0
"""Two thirds are for the launch; the rest is enough to delete its node."""

PATIENCE_S = 120.0
"""Many run at once, and each waits for the cluster's controllers to handle its namespaces."""

DRAFT_S = 5.0
"""A draft counts as abandoned after a minute by default; tests do not wait that long."""

TRIES = 3
"""Attempts until a launcher reaches an effect; writes may race."""

LOOK_S = 0.2

DEATH_S = 5.0
"""The last effect of a story may be seen before the death that follows it."""

Doing = Callable[["Play"], Awaitable[None]]


class NeverCame(Exception):
    """The launcher did not reach the effect at which it dies."""


@dataclass(frozen=True)
class Story:
    """A scenario of a launcher, from its start to its last effect."""

    title: str
    """Its title in the table of crash points."""
    labels: tuple[Options, ...]
    doing: Doing
    """What the requestor does, whether or not a launcher dies."""
    limit: int = 1
    """The pool's ``max-servers``: no more than the story needs at once."""
    phase: str | None = crashing.SERVE
    """Which of its effects are crash points of this story; None for all."""
    top: Options = field(default_factory=dict)
    provider: Options = field(default_factory=dict)
    before: Doing | None = None
    """What happened before the launcher starts."""
    intervals: Intervals = NORMAL
    """Intervals of the launcher that dies; the next one always has short ones."""


class Play:
    """One story being played, in a chroot of its own."""

    def __init__(self, story: Story, cluster: LocalCluster, admin: Admin, folder: Path) -> None:
        self.story = story
        self._cluster = cluster
        self.folder = folder
        """Where the dying launcher's log is."""
        self._admin = admin
        self._make_site = SiteMaker(cluster, f"/test-{uuid.uuid4().hex}", folder)
        self.site = self._site()
        self.zuul = Zuul(self.site.hosts)
        self._watch = LedgerWatch(self.site.hosts, self._make_site.pool)
        self._used: dict[str, str] = {}
        """By node: the request that it was allocated to and accepted for."""
        self._deployment: str | None = None
        self._over: list[str] = []
        self._configured = False
        self.process: Any = None
        """The launcher that dies."""

    def _site(self, top: Options | None = None, provider: Options | None = None) -> Site:
        return self._make_site(
            *self.story.labels,
            pool={"max-servers": self.story.limit},
            provider={**self.story.provider, **(provider or {})},
            top={**QUICK_SESSION, **self.story.top, **(top or {})},
        )

    # --- everything ------------------------------------------------------------------------------

    async def record(self) -> list[Effect]:
        """Play it without a death; the launcher's effects, in their order."""
        async with self._in_zookeeper():
            return await self._recorded()

    async def crash(self, point: CrashPoint) -> None:
        """Play it with a launcher that dies there, and a second one that finishes it.

        Raises AssertionError if the result is wrong, NeverCame.
        """
        async with self._in_zookeeper():
            await self._crashed(point)

    @asynccontextmanager
    async def _in_zookeeper(self) -> AsyncIterator[None]:
        await create_chroot(self.site.hosts)
        await self.zuul.start()
        await asyncio.to_thread(self._watch.start)
        try:
            yield
        finally:
            if self.process is not None and self.process.exitcode is None:
                self.process.kill()
            await asyncio.to_thread(self._watch.stop)
            await self.zuul.stop()
            await delete_chroot(self.site.hosts)

    def start(self, point: CrashPoint | None = None) -> None:
        """Start the launcher that dies."""
        self.process = crashing.start(
            crashing.Orders(
                config=self.site.path,
                kubeconfig=self._cluster.kubeconfig,
                folder=self.folder,
                drain=DRAIN_S,
                intervals=self.story.intervals,
                point=point,
            )
        )

    async def kill(self) -> None:
        """Kill it at any point."""
        self.process.kill()
        await self.ended()

    async def _recorded(self) -> list[Effect]:
        await self._prepare()
        self.start()
        await self._tell_and_settle()
        await self.kill()
        effects = crashing.noted(self._notes, phase=self.story.phase)
        async with self._next_launcher() as next_one:
            await self._leave_nothing(next_one)
        return effects

    async def _crashed(self, point: CrashPoint) -> None:
        await self._prepare()
        looking = asyncio.create_task(self._keep_looking())
        self.start(point)
        telling = asyncio.create_task(self._tell_and_settle())
        try:
            came = await self._dies(telling)
            # No launcher runs now: the state must be consistent as it is.
            await self._look()
            async with self._next_launcher() as next_one:
                await telling
                await self._look()
                await self._leave_nothing(next_one)
        finally:
            for task in (telling, looking):
                task.cancel()
            await asyncio.wait({telling, looking})
        if not looking.cancelled():
            looking.result()
        assert not self._over, self._over
        if not came:
            raise NeverCame

    async def _prepare(self) -> None:
        if self.story.before is not None:
            await self.story.before(self)
            self._notes.unlink(missing_ok=True)

    async def _dies(self, telling: asyncio.Task[None]) -> bool:
        """Wait for its death; if the story ends without it, kill it and return False."""
        ended = asyncio.create_task(self.ended())
        await asyncio.wait({ended, telling}, return_when=asyncio.FIRST_COMPLETED)
        with suppress(AssertionError):
            await (self.ended(DEATH_S) if telling.done() else ended)
        ended.cancel()
        if self.process.exitcode in (None, 0):
            await self.kill()
            return False
        assert self.process.exitcode == KILLED, f"it ended with {self.process.exitcode}"
        return True

    @asynccontextmanager
    async def _next_launcher(self) -> AsyncIterator[RunningLauncher]:
        launcher = RunningLauncher(self.site, [], QUICK)
        try:
            yield await launcher.ready()
        finally:
            if not launcher.task.done():
                launcher.task.cancel()
                await asyncio.wait({launcher.task})

    @property
    def _notes(self) -> Path:
        return self.folder / "notes"

    async def _tell_and_settle(self) -> None:
        await self._tell()
        if self.process.exitcode != 0:  # A stopped launcher leaves the request to others.
            await self.settled()

    async def _tell(self) -> None:
        await self.begun()
        # What tells phases apart is there as soon as it serves; here that was another one.
        if self.story.phase is not None and self.process.exitcode is None:
            os.kill(self.process.pid, signal.SIGUSR1)
        await self.story.doing(self)

    # --- what a story is made of ---------------------------------------------------------------

    def configure(self, top: Options | None = None, provider: Options | None = None) -> None:
        """Change the configuration file: these options in addition to those of the story."""
        self._configured = True
        self.site.become(self._site(top, provider))

    async def begun(self) -> None:
        """Wait until a launcher serves with its cluster, and its first upkeep is done."""

        async def done() -> bool:
            seen = [await self.zuul.children(path) for path in (HOMES, LEDGERS)]
            pools = await self.zuul.components()
            return all(seen) and bool(pools) and not any(pool["paused"] for pool in pools)

        await eventually(done, "a launcher at work")

    async def answered_to(self, start: str) -> None:
        """Wait until the launcher has the answer to an effect, unless it is dead."""

        def check() -> bool:
            answered = crashing.noted(self._notes, crashing.ANSWERED)
            known = any(effect.name.startswith(start) for effect in answered)
            return known or self.process.exitcode is not None

        await eventually(check, f"the answer to {start}")

    async def leave_namespace(self, name: str) -> None:
        """Create a namespace that a launcher of this deployment has leaked."""
        labels = {DEPLOYMENT: await self.zuul.deployment()}
        await self._admin.create_namespace(f"{self._make_site.pool}-{name}", labels)

    async def namespaces(self) -> list[str]:
        """The namespaces of this deployment that are not being deleted."""
        found = await self._admin.namespaces(await self.zuul.deployment())
        return [entry["metadata"]["name"] for entry in found]

    async def ended(self, timeout: float | None = None) -> None:
        """Wait until the launcher that dies has ended."""
        await eventually(lambda: self.process.exitcode is not None, "its death", timeout)

    async def settled(self) -> None:
        """Wait until the request's lock is gone, which is deleted last."""

        async def no_lock() -> bool:
            return not await self.zuul.children(REQUEST_LOCKS)

        await eventually(no_lock, "request locks gone")

    async def accept(self, request_id: str) -> dict[str, Lock]:
        """Accept a fulfilled request; the locks of its nodes."""
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

    async def set_pods(self, status: Object, label: str = "pod") -> None:
        """Set that status on every new pod of a label, until cancelled."""
        while True:
            for pod in await self.pods():
                due = pod["status"].get("phase") != status["phase"]
                if due and pod["metadata"]["name"] == label:
                    metadata = pod["metadata"]
                    with suppress(ApiError):  # It was deleted in the meantime.
                        await self._admin.set_status(
                            metadata["namespace"], status, metadata["name"]
                        )
            await asyncio.sleep(LOOK_S)

    # --- what is checked ------------------------------------------------------------------------

    async def _tenants(self) -> dict[str, dict[str, int]]:
        """What each tenant's ledger holds, in thousandths."""
        names = await self.zuul.children(TENANTS)
        found = {name: await self.zuul.get(f"{TENANTS}/{name}") for name in names}
        return {name: record["claimed"] for name, record in found.items() if record}

    async def _keep_looking(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        """Check quota and ledger now, and that no node is allocated twice."""
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
        """Return everything; no record, lock, claim, pod or namespace may stay."""
        if self._configured:
            self.configure()
            as_it_was = self.site.settings()
            await eventually(
                lambda: launcher.launcher.settings == as_it_was, "the first configuration"
            )

        async def nothing() -> bool:
            await self.zuul.tidy()
            left = [await self.zuul.children(path) for path in (NODES, REQUESTS, REQUEST_LOCKS)]
            assert not any(left), left
            return True

        await eventually(nothing, "records and locks gone")

        async def no_namespace() -> bool:
            left = await self.namespaces()
            assert not left, left
            return not await self.pods()

        await eventually(no_namespace, "namespaces and pods gone")
        ledgers = {**await self.zuul.ledgers(), **await self._tenants()}
        for whose, claimed in ledgers.items():
            assert not any(claimed.values()), (whose, claimed)
        await launcher.stop()

        async def nothing_ephemeral() -> bool:
            return not await self.zuul.components() and not await self.zuul.held_locks()

        await eventually(nothing_ephemeral, "no pool registered, no lock held")


# --- many of them ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Death:
    """A launcher that dies at a point of a story."""

    story: str
    point: CrashPoint

    def __str__(self) -> str:
        effect = self.point.effect
        return f"{self.story}, {self.point.when} {effect.name} #{effect.occurrence}"


@dataclass(frozen=True)
class Outcome:
    """How a death ended."""

    came: bool
    """Whether the launcher reached the effect."""
    wrong: str = ""
    """What was wrong in the end."""


def deaths(tables: Mapping[str, Sequence[Row]]) -> list[Death]:
    """Every crash point of the named stories."""
    return [
        Death(name, CrashPoint(row.effect, when))
        for name, rows in tables.items()
        for row in rows
        for when in (BEFORE, AFTER)
    ]


def expect_nothing_wrong(outcomes: Mapping[Death, Outcome]) -> None:
    wrong = [f"{death}: {outcome.wrong}" for death, outcome in outcomes.items() if outcome.wrong]
    assert not wrong, "\n".join(wrong)


class Plays:
    """Plays stories, several at a time."""

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

    async def record(self, stories: Iterable[str], times: int = 1) -> dict[str, list[list[Effect]]]:
        """The effects of each story, in the order in which they came, as often as it is played."""

        async def one(story: str, number: int) -> list[Effect]:
            async with self._room:
                return await self._play(story, f"recorded-{number}").record()

        async def some(story: str) -> list[list[Effect]]:
            return list(await asyncio.gather(*(one(story, number) for number in range(times))))

        names = list(stories)
        return dict(zip(names, await asyncio.gather(*map(some, names)), strict=True))

    async def die(self, deaths: Sequence[Death]) -> dict[Death, Outcome]:
        """Die at each of them, and collect the outcomes."""

        async def one(number: int, death: Death) -> Outcome:
            for attempt in range(TRIES):
                async with self._room:
                    play = self._play(death.story, f"{number:03d}-{attempt}")
                    try:
                        await play.crash(death.point)
                    except NeverCame:
                        continue
                    except AssertionError as error:
                        return Outcome(came=True, wrong=f"{error} ({play.folder})")
                return Outcome(came=True)
            return Outcome(came=False)

        found = await asyncio.gather(*(one(*entry) for entry in enumerate(deaths)))
        return dict(zip(deaths, found, strict=True))
