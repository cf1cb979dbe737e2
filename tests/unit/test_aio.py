"""Waiting for several coroutines: results, the first error, and cancellation at each wait."""

from __future__ import annotations

import asyncio

import pytest

from nodepool_k8s import aio


class Work:
    """A coroutine that waits until the test ends it."""

    def __init__(self) -> None:
        self.ending: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.cancelled = False

    async def run(self) -> int:
        try:
            return await self.ending
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def returned(value: int) -> int:
    return value


async def failed(error: Exception) -> int:
    raise error


async def settle() -> None:
    """Let all runnable tasks run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_results_come_in_order() -> None:
    assert await aio.gather_all([returned(1), returned(2)]) == [1, 2]
    assert await aio.gather_all([returned(3)]) == [3]
    assert await aio.settle_all([returned(1), returned(2)]) == [1, 2]


async def test_the_first_error_ends_the_others() -> None:
    work = Work()
    with pytest.raises(KeyError):
        await aio.gather_all([work.run(), failed(KeyError("x"))])
    assert work.cancelled


async def test_settling_lets_the_others_end() -> None:
    work = Work()
    settling = asyncio.ensure_future(aio.settle_all([failed(KeyError("x")), work.run()]))
    await settle()
    assert not settling.done()
    work.ending.set_result(1)
    with pytest.raises(KeyError):
        await settling


async def test_a_race_cancels_the_losers() -> None:
    work = Work()
    assert await aio.race(work.run(), returned(7)) == 7
    assert work.cancelled
    work = Work()
    with pytest.raises(KeyError):
        await aio.race(failed(KeyError("x")), work.run())
    assert work.cancelled


async def test_a_cancelled_race_ends_all() -> None:
    works = [Work(), Work()]
    racing = asyncio.ensure_future(aio.race(*(work.run() for work in works)))
    await settle()
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert all(work.cancelled for work in works)


async def test_work_ends_although_its_caller_is_cancelled() -> None:
    work = Work()
    running = asyncio.ensure_future(aio.run_to_completion(work.run()))
    for _ in range(3):  # Again and again: none of them interrupts the work.
        await settle()
        running.cancel()
    await settle()
    assert not running.done()
    work.ending.set_result(1)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not work.cancelled


async def test_a_cancelled_caller_is_cancelled_though_work_fails() -> None:
    work = Work()
    running = asyncio.ensure_future(aio.run_to_completion(work.run()))
    await settle()
    running.cancel()
    await settle()
    work.ending.set_exception(KeyError("x"))
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_pointless_work_is_cancelled_with_its_caller() -> None:
    work = Work()
    running = asyncio.ensure_future(aio.run_to_completion(work.run(), is_pointless=lambda: True))
    await settle()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert work.cancelled


async def test_work_without_an_end_has_its_grace_only() -> None:
    work = Work()
    running = asyncio.ensure_future(aio.run_to_completion(work.run(), grace=0.0))
    await settle()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert work.cancelled


async def test_a_result_or_an_error_is_passed_on() -> None:
    assert await aio.run_to_completion(returned(1)) == 1
    with pytest.raises(KeyError):
        await aio.run_to_completion(failed(KeyError("x")))
