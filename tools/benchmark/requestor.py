"""The load: requests nodes through ZooKeeper, uses and returns them, as Zuul does.

Answers are awaited by watches, whose callbacks only take the time. The nodes of a burst are
accepted after the last one's answer: Zuul is on another machine, and here its work would be
taken from the launcher's cores. A worker of its own (see ``workers``).

All times are seconds of the monotonic clock, which the processes of one machine share.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.requestor import Requestor, request_prefix, zuul_request
from harness.waiting import until
from harness.zookeeper import Record, Znode, ZooKeeperError, create_chroot
from kazoo.exceptions import KazooException
from kazoo.recipe.lock import Lock

from benchmark import workers
from benchmark.errors import BenchmarkError

TENANT = "bench"


@dataclass
class Order:
    """One request and its times. ``fulfilled`` is when the answer was read."""

    submitted: float
    id: str = ""
    fulfilled: float = 0.0
    accepted: float = 0.0
    used: float = 0.0
    gone: float = 0.0
    record: Record = field(default_factory=dict)
    locks: dict[str, Lock] = field(default_factory=dict)

    def times(self) -> dict[str, float]:
        """The times as the benchmark gets them."""
        return {
            "submitted": self.submitted,
            "fulfilled": self.fulfilled,
            "accepted": self.accepted,
            "used": self.used,
            "gone": self.gone,
        }


class Load:
    """The commands of the benchmark, in the session of one requestor."""

    def __init__(self, requestor: Requestor) -> None:
        self._requestor = requestor
        self._held: list[Order] = []

    @classmethod
    @asynccontextmanager
    async def connected(cls, hosts: str) -> AsyncIterator[Load]:
        """Connect for the length of the block."""
        async with Requestor.connected(hosts) as requestor:
            yield cls(requestor)

    async def await_launcher(self, labels: list[str], within: float) -> None:
        """Wait until a pool that serves these labels is registered."""

        async def registered() -> bool:
            pools = await self._requestor.components()
            return any(set(labels) <= set(pool["supported_labels"]) for pool in pools)

        await until(registered, f"a registered pool with {labels}", within)

    async def launch(
        self, label: str, count: int, at_once: bool, within: float, pause: float = 0.0
    ) -> dict[str, Any]:
        """Request ``count`` nodes and keep them in use.

        All at once, or one after the other with ``pause`` seconds between. ``cpu`` is what
        the load has taken, in seconds, for requests and their answers.
        """
        orders: list[Order] = []
        cpu = 0.0
        async with _deadline(within, "an answer to a request"):
            for size in [count] if at_once else [1] * count:
                await asyncio.sleep(pause)
                before = time.process_time()
                batch = await self._obtain(label, size)
                cpu += time.process_time() - before
                await self._accept(batch)
                orders += batch
        self._held += orders
        return {"orders": [order.times() for order in orders], "cpu": cpu}

    async def release(self, within: float) -> list[dict[str, float]]:
        """Return every node that is in use; answers when their records are gone."""
        orders, self._held = self._held, []
        async with _deadline(within, "the removal of a used node's record"):
            await self._return(orders)
        return [order.times() for order in orders]

    async def cycle(self, label: str, count: int, within: float) -> list[dict[str, float]]:
        """``count`` times: request a node, use it, return it, wait until it is gone."""
        orders: list[Order] = []
        async with _deadline(within, "a node to be ready, and to be removed"):
            for _ in range(count):
                batch = await self._obtain(label, 1)
                await self._accept(batch)
                await self._return(batch)
                orders += batch
        return [order.times() for order in orders]

    async def _obtain(self, label: str, count: int) -> list[Order]:
        """Submit requests, all of them at once, and wait for their answers."""
        records = [zuul_request([label], TENANT) for _ in range(count)]
        prefix = request_prefix()
        orders = [Order(submitted=time.monotonic()) for _ in records]
        paths = await self._requestor.create_many(
            Znode(prefix, record, sequence=True) for record in records
        )
        for order, path in zip(orders, paths, strict=True):
            order.id = path.rpartition("/")[2]
        answers = await asyncio.gather(*(self._requestor.wait_answer(each.id) for each in orders))
        for order, (record, when) in zip(orders, answers, strict=True):
            order.record, order.fulfilled = record, when
        return orders

    async def _accept(self, orders: list[Order]) -> None:
        for order in orders:
            if order.record["state"] != "fulfilled":
                raise BenchmarkError(f"request {order.id} has failed: {order.record}")
            order.locks = await self._requestor.accept(order.id)
            order.accepted = time.monotonic()

    async def _return(self, orders: list[Order]) -> None:
        removals: list[asyncio.Task[None]] = []
        for order in orders:
            order.used = time.monotonic()
            await self._requestor.give_back(order.locks)
            removals.append(asyncio.create_task(self._await_removal(order)))
        await asyncio.gather(*removals)

    async def _await_removal(self, order: Order) -> None:
        for node_id in order.locks:
            order.gone = await self._requestor.wait_gone(node_id)


@asynccontextmanager
async def _deadline(seconds: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise BenchmarkError(f"timed out waiting for {what}") from error


async def _run(hosts: str) -> None:
    await create_chroot(hosts)
    async with Load.connected(hosts) as load:
        commands: workers.Commands = {
            "await_launcher": load.await_launcher,
            "launch": load.launch,
            "release": load.release,
            "cycle": load.cycle,
        }
        await workers.serve(commands, (ZooKeeperError, KazooException, TimeoutError))


def main() -> None:
    """``python -m benchmark.requestor HOSTS`` (kazoo's form, with a chroot)."""
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(_run(sys.argv[1]))


if __name__ == "__main__":
    main()
