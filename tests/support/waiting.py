"""How tests wait: check again until something is true, or fail with what is missing."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 40.0
POLL_S = 0.03


async def eventually(check: Callable[[], Any], what: str = "", timeout: float | None = None) -> Any:
    """The first true answer of ``check``, which may be a coroutine function.

    An AssertionError in it counts as "not yet".
    """
    timeout = PATIENCE_S if timeout is None else timeout
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() > deadline
        try:
            answer = check()
            result = await answer if inspect.isawaitable(answer) else answer
        except AssertionError:
            if late:
                raise
        else:
            if result:
                return result
            assert not late, f"not within {timeout:g} s: {what or check}; last: {result!r:.300}"
        await asyncio.sleep(POLL_S)
