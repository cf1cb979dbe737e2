"""What requests wait for is told to those that want to know, and not too often."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from nodepool_k8s.launcher.fulfil import Fulfilment
from nodepool_k8s.launcher.pool_queue import PoolQueue
from nodepool_k8s.launcher.progress import SECONDS, ProgressReporter
from nodepool_k8s.model import NodeRequest, Phase, Progress, RequestState
from nodepool_k8s.znodes.requests import WITH_PROGRESS
from nodepool_k8s.zookeeper.progress import ANY, ProgressRecords
from tests.support.mirrors import still_mirror
from tests.support.waiting import eventually

FIRST, SECOND = "200-0000000001", "200-0000000002"


@dataclass
class FakeRecords:
    """Notes down what is written; some records are another launcher's."""

    there: dict[str, Progress] = field(default_factory=dict)
    theirs: set[str] = field(default_factory=set)
    writes: list[tuple[str, Progress]] = field(default_factory=list)
    tries: int = 0

    async def create(self, request_id: str, progress: Progress) -> int | None:
        self.tries += 1
        if request_id in self.there or request_id in self.theirs:
            return None
        self._put(request_id, progress)
        return 0

    async def write(self, request_id: str, progress: Progress, version: int) -> int | None:
        if request_id in self.theirs and version != ANY:
            return None
        self._put(request_id, progress)
        return ANY if version == ANY else version + 1

    async def take_over(self, request_id: str, progress: Progress) -> int | None:
        self._put(request_id, progress)
        return ANY

    async def remove(self, request_id: str, version: int) -> None:
        if version == ANY or request_id not in self.theirs:
            self.there.pop(request_id, None)

    async def requests(self) -> list[str]:
        return [*self.there, *self.theirs]

    def _put(self, request_id: str, progress: Progress) -> None:
        self.there[request_id] = progress
        self.writes.append((request_id, progress))


@dataclass(eq=False)
class FakeQueue:
    """A pool's line."""

    name: str
    waiting: list[str] = field(default_factory=list)
    waits_for: str = "quota"

    @property
    def pool(self) -> Any:
        return SimpleNamespace(key=self.name)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self.waiting

    def why_waits(self, _request: NodeRequest) -> str:
        return self.waits_for


class FakeLaunch:
    """A node that is being launched, or is ready."""

    def __init__(self, node_id: str, waits_for: str, *, ready: bool = False) -> None:
        self.held = SimpleNamespace(node=SimpleNamespace(id=node_id))
        self.waits_for, self.step, self._ready = waits_for, "ready", ready

    def is_ready(self) -> bool:
        return self._ready


class Bench:
    """Reports with everything around them."""

    def __init__(self, *pools: str) -> None:
        self.records = FakeRecords()
        self.mirror = still_mirror()
        self.queues = {name: FakeQueue(name) for name in pools or ("local/main",)}
        self.fulfilments: dict[str, Any] = {}
        self.reports = ProgressReporter(
            cast(ProgressRecords, self.records),
            self.mirror,
            cast("dict[str, PoolQueue]", self.queues),
            cast("dict[str, Fulfilment]", self.fulfilments),
        )
        self.now = 0.0

    @property
    def queue(self) -> FakeQueue:
        return self.queues["local/main"]

    def add(self, request_id: str, **changes: Any) -> None:
        fields = {"state": RequestState.REQUESTED, "extra": WITH_PROGRESS, **changes}
        self.mirror.requests[request_id] = NodeRequest(request_id, node_types=("pod",), **fields)
        if fields["state"] is RequestState.REQUESTED:
            self.queue.waiting.append(request_id)
        self.reports.request_changed(request_id, self.mirror.requests.get(request_id))

    def launch(self, request_id: str, *launches: FakeLaunch) -> None:
        self.queue.waiting.remove(request_id)
        self.fulfilments[request_id] = SimpleNamespace(launches=launches, pool=self.queue.pool)
        self.reports.request_changed(request_id, self.mirror.requests.get(request_id))

    async def step(self, seconds: float = 0.0) -> float | None:
        self.now += seconds
        return await self.reports.step(self.now)


def queued(place: int, why: str = "quota", pool: str = "local/main") -> Progress:
    return Progress(Phase.QUEUED, pool, why, position=place)


def launching(node: str, why: str) -> Progress:
    return Progress(Phase.LAUNCHING, "local/main", why, node=node, step="ready")


async def test_only_who_wants_to_know_is_told() -> None:
    bench = Bench()
    bench.add(FIRST, extra={})
    bench.reports.news()
    assert not bench.reports._wake.is_set()
    bench.add(SECOND)
    assert bench.reports._wake.is_set()
    await bench.step()
    assert bench.records.there == {SECOND: queued(2)}


async def test_progress_is_written_once_a_second_and_the_last_always() -> None:
    bench = Bench()
    bench.add(FIRST)
    assert await bench.step() is None
    for why in ("cluster", "quota again", "max-concurrency"):
        bench.queue.waits_for = why
        assert await bench.step(SECONDS / 4) == SECONDS
    assert bench.records.writes == [(FIRST, queued(1))]
    assert await bench.step(SECONDS / 4) is None
    assert bench.records.writes[1:] == [(FIRST, queued(1, "max-concurrency"))]
    assert await bench.step(5) is None
    assert len(bench.records.writes) == 2, "nothing is new"


async def test_from_the_line_to_the_launch_and_away() -> None:
    bench = Bench()
    bench.add(FIRST)
    bench.add(SECOND)
    await bench.step()
    bench.launch(FIRST, FakeLaunch("1", "", ready=True), FakeLaunch("2", "Pulling"))
    await bench.step(SECONDS)
    assert bench.records.there == {FIRST: launching("2", "Pulling"), SECOND: queued(1)}
    bench.fulfilments[FIRST].launches[1]._ready = True
    await bench.step(SECONDS)
    assert bench.records.there[FIRST].node == "2", "the hand-over is under way"
    del bench.fulfilments[FIRST]
    bench.add(FIRST, state=RequestState.FULFILLED)
    await bench.step()
    assert bench.records.there == {SECOND: queued(1)}
    del bench.mirror.requests[SECOND]
    bench.queue.waiting.clear()
    bench.reports.request_changed(SECOND, None)
    await bench.step()
    assert bench.records.there == {}
    bench.reports._wake.clear()
    bench.reports.news()
    assert not bench.reports._wake.is_set(), "nobody is left to be told"


async def test_the_pool_that_comes_to_it_first_is_told() -> None:
    bench = Bench("local/main", "local/other")
    bench.add(SECOND, extra={})
    bench.add(FIRST)
    bench.queues["local/other"].waiting = [FIRST]
    await bench.step()
    assert bench.records.there == {FIRST: queued(1, pool="local/other")}


async def test_anothers_progress_record_is_kept_until_it_leaves() -> None:
    bench = Bench()
    bench.records.theirs.add(FIRST)
    bench.add(FIRST)
    for why in ("quota", "cluster"):
        bench.queue.waits_for = why
        await bench.step(SECONDS)
    assert bench.records.tries == 1
    bench.records.theirs.clear()
    bench.reports.record_gone(FIRST)
    await bench.step(SECONDS)
    assert bench.records.there == {FIRST: queued(1, "cluster")}


async def test_the_claimant_takes_over_and_the_other_keeps_the_record() -> None:
    bench = Bench()
    bench.add(FIRST)
    await bench.step()
    # Another launcher claims it, and writes.
    bench.records.theirs.add(FIRST)
    bench.add(FIRST, state=RequestState.PENDING)
    bench.queue.waiting.clear()
    await bench.step(SECONDS)
    assert FIRST in bench.records.there
    # It gives it back, and we claim it.
    bench.add(FIRST)
    await bench.step(SECONDS)
    bench.launch(FIRST, FakeLaunch("7", "Pulling"))
    await bench.step(SECONDS)
    assert bench.records.there == {FIRST: launching("7", "Pulling")}


async def test_tokens_are_not_told() -> None:
    bench = Bench()
    bench.queue.waits_for = "refused eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ6dXVsIn0.c2lnbmF0dXJlLW9m"
    bench.add(FIRST)
    await bench.step()
    assert "eyJ" not in bench.records.there[FIRST].why


async def test_records_of_deleted_requests_go_with_the_second_pass() -> None:
    bench = Bench()
    bench.records.there = {FIRST: queued(1), SECOND: queued(2)}
    bench.add(SECOND)
    for expected in ({FIRST, SECOND}, {SECOND}, {SECOND}):
        await bench.reports.drop_stale()
        assert bench.records.there.keys() == expected


async def test_a_record_lost_unseen_is_written_after_upkeep() -> None:
    bench = Bench()
    bench.add(FIRST)
    await bench.step()
    bench.records.there.clear()
    await bench.reports.drop_stale()
    await bench.step(SECONDS)
    assert bench.records.there == {FIRST: queued(1)}


async def test_a_launcher_that_stops_leaves_its_reports_to_others() -> None:
    bench = Bench()
    bench.add(FIRST)
    await bench.step()
    await bench.reports.close()
    assert bench.records.there == {}


async def test_it_runs_when_there_is_news_and_when_something_is_due() -> None:
    bench = Bench()
    bench.add(FIRST)
    task = asyncio.ensure_future(bench.reports.run())
    try:
        await eventually(lambda: bench.records.writes, "it is told")
        bench.queue.waits_for = "cluster"
        bench.reports.news()
        await eventually(lambda: len(bench.records.writes) == 2, "it is told again")
    finally:
        task.cancel()
    assert bench.records.there == {FIRST: queued(1, "cluster")}
