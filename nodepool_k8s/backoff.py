"""How long to wait before a retry: the only back-off of the launcher and its clients."""

from __future__ import annotations

import asyncio
import random

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 3.0
"""Short, so that work resumes within seconds after an outage."""


def delay(failures: int, jitter: float, retry_after: float | None = None) -> float:
    """Seconds to wait after the given number of consecutive failures (1 is the first).

    ``jitter`` is between 0 and 1 and spreads the delay over the whole span ("full jitter"),
    so that callers that failed at the same time do not retry at the same time. A server's
    Retry-After is the minimum delay.
    """
    # 1 << 10 is far above the longest delay: larger exponents only cost time.
    span = min(LONGEST_SECONDS, FIRST_SECONDS * (1 << min(failures, 10)))
    spread = FIRST_SECONDS + jitter * (span - FIRST_SECONDS)
    return spread if retry_after is None else retry_after + spread


class Backoff:
    """Counts the failures of one operation, and waits before each further try.

    ``longest`` in seconds limits each wait.
    """

    def __init__(self, longest: float = LONGEST_SECONDS) -> None:
        self._longest = longest
        self.failures = 0

    def failed(self, retry_after: float | None = None) -> float:
        """Count a failure; the seconds to wait before the next try."""
        self.failures += 1
        pause = delay(self.failures, random.random(), retry_after)
        return min(pause, self._longest) if retry_after is None else pause

    async def wait(self, retry_after: float | None = None) -> None:
        """Count a failure, and wait before the next try."""
        await asyncio.sleep(self.failed(retry_after))

    def reset(self) -> None:
        """The operation succeeded: the next failure is the first again."""
        self.failures = 0
