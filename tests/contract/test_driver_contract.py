"""Every driver keeps what ``drivers.driver`` promises: the fake one, and Kubernetes' for real."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pytest
from cluster import LocalCluster

from nodepool_k8s.config.settings import Label, LaunchSettings, Pool, Provider
from nodepool_k8s.drivers.driver import Attempt, AttemptContext, Driver
from nodepool_k8s.drivers.outcomes import Created, Lost, Ready
from nodepool_k8s.errors import NotHeld
from nodepool_k8s.kubernetes.driver import KubernetesDriver
from nodepool_k8s.model import DriverData, LabelType, Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.znodes.nodes import with_driver_data
from tests.fakes.driver import FakeBackend, FakeDriver
from tests.support.waiting import eventually

REQUEST = NodeRequest("200-0000000001", RequestState.PENDING, ("pod",))
LAUNCH = LaunchSettings(launch_timeout=60.0)


@dataclass
class Told:
    """An observer that remembers."""

    lost: list[tuple[str, str]] = field(default_factory=list)
    health: int = 0

    def node_lost(self, node_id: str, external_id: str) -> None:
        self.lost.append((node_id, external_id))

    def health_changed(self, driver: Driver) -> None:
        self.health += 1


class World(Protocol):
    """Where drivers of one kind run."""

    async def driver(self, deployment: str = "") -> Driver: ...

    async def remove_behind(self, driver: Driver, external_id: str) -> None:
        """Remove a node's objects as somebody else would."""

    async def close(self) -> None: ...


class _Tasks:
    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self.tasks.append(task)
        return task


class FakeWorld:
    """A backend in memory."""

    def __init__(self) -> None:
        self._backend = FakeBackend()
        self._tasks = _Tasks()
        self._own = "own-deployment"

    async def driver(self, deployment: str = "") -> Driver:
        provider = Provider("local", None, pools=())
        driver = FakeDriver(provider, deployment or self._own, self._backend)
        await driver.start(self._tasks.spawn)
        return driver

    async def remove_behind(self, driver: Driver, external_id: str) -> None:
        self._backend.lose(external_id)

    async def close(self) -> None:
        return


class RealWorld:
    """The local cluster."""

    def __init__(self, context: str) -> None:
        self._context = context
        self._tasks = _Tasks()
        self._own = str(uuid.uuid4())
        self._drivers: list[KubernetesDriver] = []

    async def driver(self, deployment: str = "") -> Driver:
        provider = Provider("local", self._context, pools=())
        driver = KubernetesDriver(provider, deployment or self._own)
        await driver.start(self._tasks.spawn)
        await driver.synced()
        self._drivers.append(driver)
        return driver

    async def remove_behind(self, driver: Driver, external_id: str) -> None:
        await driver.delete_owned(external_id, 1.0)

    async def close(self) -> None:
        for driver in self._drivers:
            for owned in await driver.list_owned():
                await driver.delete_owned(owned.external_id, 1.0)
            await driver.close()


@pytest.fixture(params=["fake", pytest.param("kubernetes", marks=pytest.mark.integration)])
async def world(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    made: World
    if request.param == "fake":
        made = FakeWorld()
    else:
        cluster: LocalCluster = request.getfixturevalue("fake_cluster")
        monkeypatch.setenv("KUBECONFIG", os.fspath(cluster.kubeconfig))
        made = RealWorld(cluster.context)
    yield made
    await made.close()


@pytest.fixture
async def driver(world: World) -> Driver:
    return await world.driver()


@pytest.fixture(params=[LabelType.POD, LabelType.NAMESPACE])
def label(request: pytest.FixtureRequest) -> Label:
    image = "docker.io/fedora:28" if request.param is LabelType.POD else None
    return Label("pod", request.param, image=image, launch=LAUNCH)


class Bench:
    """One node at a driver, as a launcher would treat it."""

    def __init__(self, driver: Driver, label: Label, node_id: str = "0000000007") -> None:
        self.driver = driver
        self.label = label
        # A pool of its own for each test: external ids are the backend's.
        self.pool = Pool("local", f"t{uuid.uuid4().hex[:8]}", {label.name: label})
        self.node_id = node_id
        self.recorded: list[DriverData] = []
        self.steps: list[str] = []
        self.fence: Callable[[], None] = lambda: None

    async def _record(self, data: DriverData) -> None:
        self.fence()
        self.recorded.append(data)

    def attempt(self, number: int = 0) -> Attempt:
        return self.driver.attempt(
            AttemptContext(
                provider=self.driver.provider,
                pool=self.pool,
                label=self.label,
                request=REQUEST,
                node_id=self.node_id,
                number=number,
                record=self._record,
                report=lambda _what: None,
                step_done=self.steps.append,
                is_pointless=lambda: False,
            )
        )

    def node(self, number: int = 0, ready: Ready | None = None) -> Node:
        made = Node(
            self.node_id,
            NodeState.READY,
            (self.label.name,),
            "local",
            self.pool.name,
            external_id=self.driver.external_id(self.pool, self.node_id, number),
            driver_data=with_driver_data(
                Node(self.node_id, NodeState.READY), self.driver.driver_data(self.label)
            ),
        )
        if ready is None:
            return made
        data = with_driver_data(made, ready.driver_data)
        return replace(made, extra=dict(ready.fields), driver_data=data)

    async def make(self, number: int = 0) -> Node:
        attempt = self.attempt(number)
        assert await attempt.create() == Created()
        ready = await attempt.wait_ready()
        assert isinstance(ready, Ready), ready
        node = self.node(number, ready)
        await eventually(lambda: self.driver.why_unusable(node, LAUNCH) is None)
        return node

    async def owned(self) -> list[str]:
        """External ids of this test's that are not being deleted."""
        mine = await self.driver.list_owned()
        return [
            owned.external_id
            for owned in mine
            if owned.node_id == self.node_id and not owned.deleting
        ]


# --- connecting ------------------------------------------------------------------------------


async def test_a_started_driver_is_in_touch(driver: Driver) -> None:
    await eventually(lambda: driver.health.in_touch)
    assert driver.identity


async def test_two_drivers_know_the_same_backend(world: World) -> None:
    first, second = await world.driver(), await world.driver("another")
    assert first.identity == second.identity


# --- creating ----------------------------------------------------------------------------------


async def test_an_attempt_makes_a_node(driver: Driver, label: Label) -> None:
    bench = Bench(driver, label)
    attempt = bench.attempt()
    assert await attempt.create() == Created()
    ready = await attempt.wait_ready()
    assert isinstance(ready, Ready)
    assert ready.fields["connection_port"]
    assert attempt.is_ready()
    assert bench.steps
    assert set(bench.steps) <= set(driver.steps)
    (owned,) = [each for each in await driver.list_owned() if each.node_id == bench.node_id]
    assert owned.external_id == driver.external_id(bench.pool, bench.node_id, 0)
    assert owned.is_of_provider
    assert not owned.deleting


async def test_external_ids_are_unique(driver: Driver, label: Label) -> None:
    bench = Bench(driver, label)
    ids = {
        driver.external_id(bench.pool, node_id, attempt)
        for node_id in ("0000000001", "0000000002")
        for attempt in range(3)
    }
    assert len(ids) == 6


async def test_creating_again_finds_what_there_is(driver: Driver, label: Label) -> None:
    bench = Bench(driver, label)
    attempt = bench.attempt()
    assert await attempt.create() == Created()
    assert await attempt.create() == Created()
    # As another launcher, or this one after a lost answer, would.
    assert await bench.attempt().create() == Created()
    assert len(await bench.owned()) == 1


async def test_a_lost_lock_stops_an_attempt(driver: Driver) -> None:
    bench = Bench(driver, Label("pod", LabelType.POD, image="x", launch=LAUNCH))

    def lost() -> None:
        raise NotHeld("the lock is no longer ours")

    bench.fence = lost
    with pytest.raises(NotHeld):
        await bench.attempt().create()
    await driver.delete(bench.node(), 1.0)
    assert await bench.owned() == []


async def test_the_record_has_an_identity_first(driver: Driver) -> None:
    bench = Bench(driver, Label("pod", LabelType.POD, image="x", launch=LAUNCH))
    await bench.attempt().create()
    (data,) = bench.recorded
    (owned,) = [each for each in await driver.list_owned() if each.node_id == bench.node_id]
    assert data == {"uid": owned.uid}


async def test_a_removed_attempt_makes_room_for_the_next(driver: Driver, label: Label) -> None:
    bench = Bench(driver, label)
    first = bench.attempt()
    assert await first.create() == Created()
    await first.remove(1.0)
    node = await bench.make(1)
    assert await bench.owned() == [node.external_id]


# --- losing ---------------------------------------------------------------------------------------


async def test_a_node_that_goes_is_lost(world: World, driver: Driver, label: Label) -> None:
    bench, told = Bench(driver, label), Told()
    driver.observe(told)
    node = await bench.make()
    assert await driver.why_lost(node, LAUNCH) is None
    assert node.external_id
    await world.remove_behind(driver, node.external_id)
    await eventually(lambda: (node.id, node.external_id) in told.lost)
    await eventually(lambda: driver.why_unusable(node, LAUNCH))
    assert await driver.why_lost(node, LAUNCH)
    assert isinstance(await driver.prepare_reuse(node, label, REQUEST), Lost)


async def test_a_node_that_never_was_is_lost(driver: Driver, label: Label) -> None:
    bench = Bench(driver, label)
    assert driver.why_unusable(bench.node(), LAUNCH)
    assert await driver.why_lost(bench.node(), LAUNCH)


async def test_a_ready_node_can_be_reused(driver: Driver, label: Label) -> None:
    bench = Bench(driver, label)
    node = await bench.make()
    assert isinstance(await driver.prepare_reuse(node, label, REQUEST), Ready)


# --- deleting -----------------------------------------------------------------------------------


async def test_a_deleted_node_is_gone(driver: Driver, label: Label) -> None:
    bench = Bench(driver, label)
    node = await bench.make()
    await driver.delete(node, 1.0)
    assert await bench.owned() == []
    await driver.delete(node, 1.0)  # Again is fine.


async def test_deleting_what_never_was_is_fine(driver: Driver, label: Label) -> None:
    await driver.delete(Bench(driver, label).node(), 1.0)


async def test_deployments_leave_each_other_alone(world: World, label: Label) -> None:
    ours, theirs = await world.driver(), await world.driver(str(uuid.uuid4()))
    node = await Bench(ours, label).make()
    assert node.external_id not in [each.external_id for each in await theirs.list_owned()]
    await theirs.delete(node, 1.0)
    await theirs.delete_owned(node.external_id or "", 1.0)
    assert await ours.why_lost(node, LAUNCH) is None
