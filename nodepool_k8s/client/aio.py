"""What has begun is brought to its end, though its caller is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

CANCEL_GRACE_SECONDS = 10.0
"""How long a cancelled caller is kept waiting at most: as long as a session commonly lives."""


async def run_to_completion(
    work: Coroutine[Any, Any, T], patience: float = CANCEL_GRACE_SECONDS
) -> T:
    """Await it to its end; a cancellation comes after that.

    For what must be known to be undone: whether a znode was made, and under which name.
    After a cancellation it has ``patience`` seconds left, and is cancelled then itself.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    limit: asyncio.TimerHandle | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
            limit = limit or asyncio.get_running_loop().call_later(patience, task.cancel)
    if limit is not None:
        limit.cancel()
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # Nobody else asks for it.
    raise cancelled
