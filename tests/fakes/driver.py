"""A driver whose backend is in memory: it can refuse, be slow, hang, go away and lose nodes.

Several launchers share one ``FakeBackend``, each with a ``FakeDriver`` of its own. All waiting
is on the event loop's clock, so that it takes no time under a virtual one.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from dataclasses import dataclass, field

from nodepool_k8s.config.settings import Label, LaunchSettings, Pool, Provider
from nodepool_k8s.drivers.driver import AttemptContext, Observer, Spawn
from nodepool_k8s.drivers.outcomes import (
    BackendTrouble,
    CapacityRefused,
    Created,
    Failure,
    Health,
    Lost,
    Owned,
    Permanent,
    Ready,
    Retryable,
)
from nodepool_k8s.errors import DriverError
from nodepool_k8s.model import DriverData, Node, NodeRequest

CreateOutcome = CapacityRefused | BackendTrouble | Retryable | Permanent


@dataclass(frozen=True, slots=True)
class FakeDelays:
    """How long the backend takes, in seconds."""

    create: float = 0.0
    ready: float = 0.0
    delete: float = 0.0
    lag: float = 0.0
    """Until drivers are told of what happened."""


@dataclass(slots=True)
class FakeObject:
    """What one attempt created."""

    external_id: str
    uid: str
    node_id: str
    provider: str
    deployment: str
    works: bool = True
    deleted_at: float | None = None


@dataclass(slots=True)
class FakeBackend:
    """The world that drivers create nodes in."""

    identity: str = "fake-backend"
    delays: FakeDelays = field(default_factory=FakeDelays)
    objects: dict[str, FakeObject] = field(default_factory=dict)
    refusals: deque[CreateOutcome] = field(default_factory=deque)
    """What the next calls of ``create`` answer instead of creating anything."""
    failures: deque[Retryable | Permanent] = field(default_factory=deque)
    """What the next nodes that are waited for come to instead of becoming ready."""
    capacity: int | None = None
    """How many nodes fit; None for any number."""
    reachable: bool = True
    blocked: set[str] = field(default_factory=set)
    """External ids whose deletion does not end."""
    reused: Ready = field(default_factory=Ready)
    """What changes in the record of a node that is reused."""
    created: int = 0
    """How many nodes were ever created."""
    _drivers: list[FakeDriver] = field(default_factory=list)
    _uids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _running: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._running.set()

    # --- what a test does to it ---------------------------------------------------------------

    def lose(self, external_id: str) -> None:
        """A node's objects go, and not because a launcher deleted them."""
        self.objects.pop(external_id, None)
        self._tell(external_id)

    def leak(self, external_id: str, node_id: str, provider: str, deployment: str) -> None:
        """Something of a deployment exists that no record names."""
        self.add(external_id, node_id, provider, deployment)

    def go_away(self) -> None:
        """From now on every call fails, and drivers know no news."""
        self.reachable = False
        self._health_changed()

    def come_back(self) -> None:
        """Answer again."""
        self.reachable = True
        self._health_changed()

    def hang(self) -> None:
        """From now on no call returns."""
        self._running.clear()

    def go_on(self) -> None:
        """Let the calls that hang go on."""
        self._running.set()

    # --- what drivers do ----------------------------------------------------------------------

    def connect(self, driver: FakeDriver) -> None:
        """A driver wants to be told of what happens."""
        self._drivers.append(driver)

    def disconnect(self, driver: FakeDriver) -> None:
        """A driver is closed."""
        if driver in self._drivers:
            self._drivers.remove(driver)

    async def call(self, seconds: float = 0.0) -> None:
        """One call. Raises DriverError where the backend is away, before or after it acted."""
        await self._running.wait()
        if seconds:
            await asyncio.sleep(seconds)
        if not self.reachable:
            raise DriverError("the backend does not answer")

    def add(self, external_id: str, node_id: str, provider: str, deployment: str) -> FakeObject:
        """Create something, or find what was created before."""
        found = self.objects.get(external_id)
        if found is None:
            uid = f"uid-{next(self._uids)}"
            found = FakeObject(external_id, uid, node_id, provider, deployment)
            self.objects[external_id] = found
            self.created += 1
            self._tell(external_id)
        return found

    @property
    def is_full(self) -> bool:
        """Whether its own quota is used up."""
        return self.capacity is not None and len(self.objects) >= self.capacity

    async def delete(self, external_id: str) -> None:
        """Accept a deletion, and let it end after a while."""
        found = self.objects.get(external_id)
        if found is None or found.deleted_at is not None:
            return
        found.deleted_at = time.time()
        self._tell(external_id)
        if external_id not in self.blocked:
            loop = asyncio.get_running_loop()
            loop.call_later(self.delays.delete, self._gone, external_id, found.uid)

    def unblock(self, external_id: str) -> None:
        """What held a deletion is gone."""
        self.blocked.discard(external_id)
        found = self.objects.get(external_id)
        if found is not None and found.deleted_at is not None:
            self._gone(external_id, found.uid)

    def _gone(self, external_id: str, uid: str) -> None:
        found = self.objects.get(external_id)
        if found is not None and found.uid == uid:
            del self.objects[external_id]
            self._tell(external_id)

    def _tell(self, external_id: str) -> None:
        loop = asyncio.get_running_loop()
        for driver in list(self._drivers):
            loop.call_later(self.delays.lag, driver.look_at, external_id)

    def _health_changed(self) -> None:
        for driver in list(self._drivers):
            driver.look_at_health()


class FakeDriver:
    """One provider of one launcher at a fake backend."""

    steps = ("create", "ready")

    def __init__(self, provider: Provider, deployment: str, backend: FakeBackend) -> None:
        self.backend = backend
        self.deployment = deployment
        self._provider = provider
        self._identity = ""
        self._observers: list[Observer] = []
        self._known: dict[str, FakeObject] = {}
        """As far as it was told."""
        self._changed: dict[str, asyncio.Event] = {}
        self._started = asyncio.Event()
        self._away_since: float | None = asyncio.get_running_loop().time()

    @property
    def provider(self) -> Provider:
        return self._provider

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def health(self) -> Health:
        return Health(self._started.is_set(), self._away_since)

    # --- connecting ---------------------------------------------------------------------------

    async def start(self, spawn: Spawn) -> None:
        await self.backend.call()
        self._identity = self.backend.identity
        self._known = {
            key: found for key, found in self.backend.objects.items() if self._own(found)
        }
        self.backend.connect(self)
        self._away_since = None
        self._started.set()

    async def synced(self) -> None:
        await self._started.wait()

    def serve(self, provider: Provider) -> None:
        self._provider = provider

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    async def close(self) -> None:
        self.backend.disconnect(self)

    # --- what it is told ------------------------------------------------------------------------

    def look_at(self, external_id: str) -> None:
        """Something happened there."""
        before, found = self._known.get(external_id), self.backend.objects.get(external_id)
        if found is not None and self._own(found):
            self._known[external_id] = found
        else:
            self._known.pop(external_id, None)
        self._changed.pop(external_id, asyncio.Event()).set()
        if before is not None and (found is None or not found.works or found.deleted_at):
            for observer in self._observers:
                observer.node_lost(before.node_id, external_id)

    def look_at_health(self) -> None:
        """The backend went away or came back."""
        now = asyncio.get_running_loop().time()
        self._away_since = None if self.backend.reachable else now
        for observer in self._observers:
            observer.health_changed(self)

    def _own(self, found: FakeObject) -> bool:
        return found.deployment == self.deployment

    # --- nodes ----------------------------------------------------------------------------------

    def external_id(self, pool: Pool, node_id: str, attempt: int) -> str:
        return f"{pool.name}/{node_id}/{attempt}"

    def driver_data(self, label: Label) -> DriverData:
        return {"type": label.type.value}

    def attempt(self, context: AttemptContext) -> FakeAttempt:
        return FakeAttempt(self, context)

    def why_unusable(self, node: Node, launch: LaunchSettings) -> str | None:
        return _why(self._known.get(node.external_id or ""))

    async def why_lost(self, node: Node, launch: LaunchSettings) -> str | None:
        await self.backend.call()
        return _why(self.backend.objects.get(node.external_id or ""))

    async def prepare_reuse(self, node: Node, label: Label, request: NodeRequest) -> Ready | Lost:
        why = self.why_unusable(node, label.launch)
        return self.backend.reused if why is None else Lost(why)

    async def changed(self, external_id: str, timeout: float) -> bool:
        event = self._changed.setdefault(external_id, asyncio.Event())
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return False
        return True

    async def delete(self, node: Node, grace: float) -> None:
        await self.delete_and_wait(node.external_id or "", grace)

    async def delete_and_wait(self, external_id: str, grace: float) -> None:
        """Delete what is ours there, and wait until it is gone."""
        await self.delete_owned(external_id, grace)
        while (found := self.backend.objects.get(external_id)) and self._own(found):
            await self.changed(external_id, 30.0)
            await self.backend.call()

    # --- what is there --------------------------------------------------------------------------

    async def list_owned(self) -> tuple[Owned, ...]:
        await self.backend.call()
        return tuple(
            Owned(
                found.external_id,
                found.uid,
                found.node_id,
                found.provider == self.provider.name,
                found.deleted_at is not None,
                found.deleted_at,
            )
            for found in self.backend.objects.values()
            if self._own(found)
        )

    async def delete_owned(self, external_id: str, grace: float) -> None:
        await self.backend.call()
        found = self.backend.objects.get(external_id)
        if found is not None and self._own(found):
            await self.backend.delete(external_id)

    async def blockers(self, external_id: str) -> tuple[str, ...]:
        return ("a finalizer",) if external_id in self.backend.blocked else ()

    def count_terminating(self) -> int:
        return sum(found.deleted_at is not None for found in self._known.values())


class FakeAttempt:
    """One attempt at one node."""

    def __init__(self, driver: FakeDriver, context: AttemptContext) -> None:
        self._driver = driver
        self._backend = driver.backend
        self._context = context
        self._external_id = driver.external_id(context.pool, context.node_id, context.number)

    async def create(
        self,
    ) -> Created | CapacityRefused | BackendTrouble | Retryable | Permanent:
        self._context.report("its objects")
        try:
            await self._backend.call(self._backend.delays.create)
        except DriverError as error:
            return BackendTrouble(str(error))
        if self._backend.refusals:
            return self._backend.refusals.popleft()
        if self._external_id not in self._backend.objects and self._backend.is_full:
            return CapacityRefused("the backend is full")
        name = self._driver.provider.name
        found = self._backend.add(
            self._external_id, self._context.node_id, name, self._driver.deployment
        )
        await self._context.record({"uid": found.uid})
        self._context.step_done("create")
        return Created()

    async def wait_ready(self) -> Ready | Retryable | Permanent:
        self._context.report("its start")
        await asyncio.sleep(self._backend.delays.ready)
        if self._backend.failures:
            return self._backend.failures.popleft()
        if self._external_id not in self._backend.objects:
            return Retryable("it was deleted", Failure.DELETED)
        self._context.step_done("ready")
        return Ready(
            fields={
                "connection_type": "namespace",
                "connection_port": {"namespace": self._external_id},
            },
            driver_data={"token_issued": time.time()},
        )

    def is_ready(self) -> bool:
        return _why(self._backend.objects.get(self._external_id)) is None

    async def remove(self, grace: float) -> None:
        await self._driver.delete_and_wait(self._external_id, grace)


def _why(found: FakeObject | None) -> str | None:
    if found is None or found.deleted_at is not None:
        return "it was deleted by somebody else"
    return None if found.works else "it does not work any more"


@dataclass(frozen=True, slots=True)
class FakeDriverFactory:
    """Makes drivers at one backend."""

    backend: FakeBackend

    def create(self, provider: Provider, deployment: str) -> FakeDriver:
        return FakeDriver(provider, deployment, self.backend)

    def obstacle(self, context: str | None) -> str | None:
        return None
