"""A response is kept for a second, and made once for all requests at the same time."""

import asyncio

from nodepool_k8s.web import cache
from nodepool_k8s.web.cache import ResponseCache


class Maker:
    """Counts what it makes; each takes until ``gate`` is open."""

    def __init__(self) -> None:
        self.made = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> bytes:
        await self.gate.wait()
        self.made += 1
        return b"%d" % self.made


async def test_a_response_is_reused_for_a_second() -> None:
    now = 1000.0
    answers, make = ResponseCache(lambda: now), Maker()
    assert (await answers.get("x", make)).body == b"1"
    now += 0.9
    assert await answers.get("x", make) == cache.CachedResponse(b"1", 1000.0)
    assert (await answers.get("y", make)).body == b"2"
    now += 0.2
    assert await answers.get("x", make) == cache.CachedResponse(b"3", now)
    now -= 3600  # The clock was set back.
    assert (await answers.get("x", make)).body == b"4"


async def test_concurrent_requests_share_one_response() -> None:
    answers, make = ResponseCache(lambda: 1.0), Maker()
    make.gate.clear()
    waiting = [asyncio.ensure_future(answers.get("x", make)) for _ in range(20)]
    await asyncio.sleep(0)
    make.gate.set()
    assert {answer.body for answer in await asyncio.gather(*waiting)} == {b"1"}


async def test_a_failed_response_is_made_again() -> None:
    answers, make = ResponseCache(lambda: 1.0), Maker()

    async def fail() -> bytes:
        raise RuntimeError("no")

    results = await asyncio.gather(answers.get("x", fail), return_exceptions=True)
    assert isinstance(results[0], RuntimeError)
    assert (await answers.get("x", make)).body == b"1"


async def test_no_more_answers_are_kept_than_a_few() -> None:
    answers, make = ResponseCache(lambda: 1.0), Maker()
    for number in range(3 * cache.LARGEST):
        await answers.get(number, make)
    assert len(answers) == cache.LARGEST
    assert (await answers.get(3 * cache.LARGEST - 1, make)).body == b"%d" % make.made
