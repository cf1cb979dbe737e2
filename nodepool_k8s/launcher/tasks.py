"""The one way to start a task: supervised, so that none dies unnoticed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from nodepool_k8s.errors import SessionLost

log = logging.getLogger(__name__)

T = TypeVar("T")

OnCrash = Callable[[str, BaseException], None]


class Tasks:
    """Tasks that live and end together.

    One that ends with an unexpected error is handed to ``on_crash``, which stops the
    daemon: an error that nobody foresaw is better loud than lived with. SessionLost is
    foreseen everywhere: whoever serves the session ends all of its tasks.
    """

    def __init__(self, on_crash: OnCrash) -> None:
        self._on_crash = on_crash
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, SessionLost):
            log.debug("%s ended with its session", task.get_name())
        elif error is not None:
            self._on_crash(task.get_name(), error)

    async def cancel(self) -> None:
        """Cancel all, and wait until the last has ended."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(set(self._tasks))

    async def finished(self) -> None:
        """Wait until the last has ended of itself."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
