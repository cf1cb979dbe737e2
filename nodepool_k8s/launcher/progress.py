"""Progress records: what a request waits for, for requestors that ask for it.

A request with ``progress: true`` gets a record under ``/nodepool-k8s/progress`` while it
waits in a pool's queue or its nodes are being launched. It says what the status page says.
Other requests cost only the check of the flag.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from nodepool_k8s.launcher.fulfil import Fulfilment
from nodepool_k8s.launcher.pool_queue import PoolQueue
from nodepool_k8s.model import NodeRequest, Phase, Progress, RequestState
from nodepool_k8s.redaction import redact_text
from nodepool_k8s.znodes.requests import wants_progress
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.progress import ProgressRecords

SECONDS = 1.0
"""The shortest time between two writes for one request."""

GATHERED_SECONDS = 0.05
"""How long changes are collected before a write: a launch goes through several steps."""


@dataclass(slots=True)
class ProgressReport:
    """The progress record of one request."""

    version: int | None = None
    """That of our last write; None if another launcher wrote it, or it does not exist."""
    is_theirs: bool = False
    """Whether another launcher writes it, until this one claims the request."""
    reported: Progress | None = None
    """The last that we wrote, or would have written if the record were ours."""
    due: float = 0.0
    """The loop's time before which it is not written again."""


class ProgressReporter:
    """Writes the progress records of one session."""

    def __init__(
        self,
        records: ProgressRecords,
        mirror: Mirror,
        queues: Mapping[str, PoolQueue],
        fulfilments: Mapping[str, Fulfilment],
    ) -> None:
        self._records = records
        self._mirror = mirror
        self._queues = queues
        self._fulfilments = fulfilments
        self._reports: dict[str, ProgressReport] = {}
        self._wake = asyncio.Event()
        self._stale_before: set[str] = set()

    # --- events --------------------------------------------------------------------

    def request_changed(self, request_id: str, request: NodeRequest | None) -> None:
        """A request came, changed, went (None), or was locked or unlocked."""
        if request is not None and wants_progress(request):
            self._reports.setdefault(request_id, ProgressReport())
        self.news()

    def news(self) -> None:
        """What requests wait for may have changed."""
        if self._reports:
            self._wake.set()

    def record_gone(self, request_id: str) -> None:
        """A record was removed: its launcher left the request, or has ended."""
        report = self._reports.get(request_id)
        if report is not None:
            report.version, report.reported, report.is_theirs = None, None, False
            self._wake.set()

    # --- what it does ---------------------------------------------------------------------

    async def run(self) -> None:
        """Report until cancelled."""
        for request_id, request in list(self._mirror.requests.items()):
            self.request_changed(request_id, request)
        loop = asyncio.get_running_loop()
        due: float | None = None
        while True:
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(GATHERED_SECONDS)
            self._wake.clear()
            due = await self.step(loop.time())

    async def step(self, now: float) -> float | None:
        """Write the records that changed and are due; when the next one is due, or None."""
        positions = self._positions()
        write, later = [], []
        for request_id, report in list(self._reports.items()):
            progress = self._progress(request_id, positions)
            if progress is None:
                write.append(self._forget(request_id, report))
            elif progress == report.reported:
                continue
            elif now >= report.due:
                report.due = now + SECONDS
                write.append(self._tell(request_id, report, progress))
            else:
                later.append(report.due)
        await asyncio.gather(*write)
        return min(later, default=None)

    def _positions(self) -> dict[PoolQueue, dict[str, int]]:
        """The position of each request, in the queues that have a reported one."""
        return {
            queue: {request_id: place for place, request_id in enumerate(queue.waiting, 1)}
            for queue in self._queues.values()
            if any(request_id in queue for request_id in self._reports)
        }

    def _progress(
        self, request_id: str, positions: Mapping[PoolQueue, Mapping[str, int]]
    ) -> Progress | None:
        request = self._mirror.requests.get(request_id)
        if request is None:
            return None
        if request_id in self._fulfilments:
            return _launching(self._fulfilments[request_id])
        found = [(places[request_id], q) for q, places in positions.items() if request_id in places]
        if not found:
            return None
        # If several pools have it in their queue, the one where it is served first.
        place, queue = min(found, key=lambda each: (each[0], each[1].pool.key))
        return _queued(queue, request, place)

    async def _tell(self, request_id: str, report: ProgressReport, progress: Progress) -> None:
        report.reported = progress
        if progress.phase is Phase.LAUNCHING:
            report.version = await self._records.take_over(request_id, progress)
            return
        if report.version is not None:
            report.version = await self._records.write(request_id, progress, report.version)
        elif not report.is_theirs:
            report.version = await self._records.create(request_id, progress)
        report.is_theirs = report.version is None

    async def _forget(self, request_id: str, report: ProgressReport) -> None:
        """The request is neither queued nor launched here: it has ended, or another has it."""
        request = self._mirror.requests.get(request_id)
        if request is None or request.state in (RequestState.FULFILLED, RequestState.FAILED):
            self._reports.pop(request_id, None)
        version, report.version, report.reported = report.version, None, None
        if version is not None:
            await self._records.remove(request_id, version)

    async def close(self) -> None:
        """Remove our records; other launchers may write theirs."""
        left = [self._forget(*each) for each in list(self._reports.items())]
        self._reports.clear()
        await asyncio.gather(*left)

    # --- upkeep -----------------------------------------------------------------------------

    async def drop_stale(self) -> None:
        """Remove records of requests that did not exist at the last pass either.

        Write those that another launcher removed without an event that we saw.
        """
        records = set(await self._records.requests())
        for request_id in self._reports.keys() - records:
            self.record_gone(request_id)
        stale = {name for name in records if name not in self._mirror.requests}
        for request_id in stale & self._stale_before:
            await self._records.remove(request_id, -1)
        self._stale_before = stale


def _queued(queue: PoolQueue, request: NodeRequest, place: int) -> Progress:
    return Progress(
        Phase.QUEUED, queue.pool.key, redact_text(queue.why_waits(request)), position=place
    )


def _launching(fulfilment: Fulfilment) -> Progress:
    launches = fulfilment.launches
    launch = next((each for each in launches if not each.is_ready()), launches[-1])
    return Progress(
        Phase.LAUNCHING,
        fulfilment.pool.key,
        redact_text(launch.waits_for),
        node=launch.held.node.id,
        step=launch.step,
    )
