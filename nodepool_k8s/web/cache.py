"""Responses that are kept for a second, so that many requests cost as much as one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

SECONDS = 1.0
"""How old a response may be; as in Nodepool."""

LARGEST = 16
"""How many responses are kept. Each may be megabytes, and any client may vary its query."""


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A body, and when it was made, in seconds since the epoch."""

    body: bytes
    made: float


class ResponseCache:
    """Makes one response at a time, and returns it to every request for the same key."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._responses: dict[Hashable, CachedResponse] = {}
        self._making = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._responses)

    async def get(self, key: Hashable, make: Callable[[], Awaitable[bytes]]) -> CachedResponse:
        """The response for ``key``, made by ``make`` unless a fresh one is kept."""
        async with self._making:
            response = self._responses.get(key)
            if response is None or not 0 <= self._clock() - response.made < SECONDS:
                self._responses.pop(key, None)
                response = CachedResponse(await make(), self._clock())
                self._keep(key, response)
            return response

    def _keep(self, key: Hashable, response: CachedResponse) -> None:
        while len(self._responses) >= LARGEST:
            del self._responses[next(iter(self._responses))]
        self._responses[key] = response
        # Dropped when it is stale: ten thousand rows are megabytes.
        asyncio.get_running_loop().call_later(SECONDS, self._drop, key, response)

    def _drop(self, key: Hashable, response: CachedResponse) -> None:
        if self._responses.get(key) is response:
            del self._responses[key]
