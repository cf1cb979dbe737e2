"""Waiting for something that can only be looked at again and again."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

EVERY_S = 0.05


async def until(check: Callable[[], Any], what: str, within: float, every: float = EVERY_S) -> Any:
    """The first true answer of ``check``, which may be a coroutine function.

    Raises TimeoutError, which says what was waited for.
    """
    deadline = time.monotonic() + within
    while True:
        late = time.monotonic() > deadline
        answer = check()
        result = await answer if inspect.isawaitable(answer) else answer
        if result:
            return result
        if late:
            raise TimeoutError(f"timed out after {within:g} s waiting for {what}")
        await asyncio.sleep(every)
