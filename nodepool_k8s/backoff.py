"""How long to wait before trying again: the one back-off that everything here uses.

Plain arithmetic. The caller brings the randomness (``random.random()``), so that a
test can name the delay it expects.
"""

from __future__ import annotations

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 3.0
"""So that whoever waits goes on within seconds of the return of what was away."""


def delay(failures: int, jitter: float, retry_after: float | None = None) -> float:
    """Seconds to wait after that many failures in a row (1 is the first).

    ``jitter`` is between 0 and 1 and spreads the whole span ("full jitter"), so that
    many who failed together do not come back together. What a server asked for with
    Retry-After is a floor under it.
    """
    # 1 << 10 is far above the longest delay: larger exponents only cost time.
    span = min(LONGEST_SECONDS, FIRST_SECONDS * (1 << min(failures, 10)))
    spread = FIRST_SECONDS + jitter * (span - FIRST_SECONDS)
    return spread if retry_after is None else retry_after + spread
