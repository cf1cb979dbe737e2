"""Ways to wait for several coroutines, or for one that must not be interrupted.

Only what asyncio has no function for. Errors are raised as they are, never in a group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_all(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once and return their results; the first error ends the others."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failed:
        error = failed.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise error


async def gather_first(first: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, None]) -> T:
    """Run all at once, as ``gather_all`` does, and return the result of the first."""
    results: list[Any] = await gather_all([first, *others])
    result: T = results[0]
    return result


async def settle_all(work: Iterable[Awaitable[T]]) -> list[T]:
    """Run all at once to their ends; then return their results, or raise the first error."""
    results = await asyncio.gather(*work, return_exceptions=True)
    found: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found


async def race(*coroutines: Coroutine[Any, Any, Any]) -> Any:
    """Run all at once until the first has ended; cancel the others, and return its result."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        await cancel_all(tasks)


async def cancel_all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel all, and wait until the last has ended; their errors are dropped."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def run_to_completion(
    work: Coroutine[Any, Any, T],
    *,
    grace: float | None = None,
    is_pointless: Callable[[], bool] = lambda: False,
) -> T:
    """Run one coroutine to its end although the caller is cancelled; then raise CancelledError.

    For an effect whose outcome must be known: a namespace or a znode whose creation is under
    way must exist or not before it is removed. After a cancellation the work is cancelled
    too when ``grace`` seconds have passed, or at once where ``is_pointless`` says so.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    limit: asyncio.TimerHandle | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
            if is_pointless():
                task.cancel()
            elif grace is not None and limit is None:
                limit = asyncio.get_running_loop().call_later(grace, task.cancel)
    if limit is not None:
        limit.cancel()
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # Retrieved: the cancellation is what counts now.
    raise cancelled
