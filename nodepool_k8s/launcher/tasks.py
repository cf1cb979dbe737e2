"""Supervised tasks: an unexpected error in one is always reported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from nodepool_k8s.errors import SessionLost

log = logging.getLogger(__name__)


class TasksObserver(Protocol):
    """Decides what an unexpected error means."""

    def task_crashed(self, task: str, error: BaseException) -> None:
        """A task of that name ended with an unexpected error."""


class Tasks:
    """Tasks that are ended together.

    The observer hears of each task that ends with an unexpected error; the daemon stops
    then, as a bug must not stay unnoticed. SessionLost is expected everywhere: what serves
    the session ends all of its tasks.
    """

    def __init__(self, observer: TasksObserver) -> None:
        self._observer = observer
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
            self._observer.task_crashed(task.get_name(), error)

    async def cancel(self) -> None:
        """Cancel all, and wait until the last has ended."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(set(self._tasks))

    async def finished(self) -> None:
        """Wait until the last has ended, without cancelling any."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
