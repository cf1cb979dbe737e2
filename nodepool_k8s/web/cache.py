"""Answers that are good for a second, so that many who ask cost as much as one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

SECONDS = 1.0
"""How old an answer may be; Nodepool's."""

LARGEST = 16
"""Answers that are kept. Each may be megabytes, and a query is anybody's to vary."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``made`` is in seconds since the epoch."""

    body: bytes
    made: float


class Cache:
    """Makes one answer at a time; who asks the same meanwhile gets that one."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._answers: dict[Hashable, Answer] = {}
        self._making = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._answers)

    async def get(self, key: Hashable, make: Callable[[], Awaitable[bytes]]) -> Answer:
        """The answer to ``key``, made by ``make`` unless there is a fresh one."""
        async with self._making:
            answer = self._answers.get(key)
            if answer is None or not 0 <= self._clock() - answer.made < SECONDS:
                self._answers.pop(key, None)
                answer = Answer(await make(), self._clock())
                self._keep(key, answer)
            return answer

    def _keep(self, key: Hashable, answer: Answer) -> None:
        while len(self._answers) >= LARGEST:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = answer
        # Not kept for the next one, who may come in an hour: ten thousand rows are megabytes.
        asyncio.get_running_loop().call_later(SECONDS, self._drop, key, answer)

    def _drop(self, key: Hashable, answer: Answer) -> None:
        if self._answers.get(key) is answer:
            del self._answers[key]
