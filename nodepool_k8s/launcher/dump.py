"""The launcher's state in words: a line for systemd, and on SIGUSR2 all of it for the log.

The latter is what the launcher waits for, and where each task and each thread stands. Names,
files and lines only, and the words that the status page has: no values, so no secrets.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

Status = Mapping[str, Any]
"""What ``View.status`` gives."""


def summary(status: Status) -> str:
    """The state in a line."""
    if status["obstacles"]:
        return f"Cannot serve: {status['obstacles'][0]}"
    states = ", ".join(f"{count} {state}" for state, count in status["nodes"].items())
    return (
        f"pools: {len(status['pools'])}, nodes: {sum(status['nodes'].values())}"
        f"{f' ({states})' if states else ''}, requests: {status['waiting_count']} waiting, "
        f"{status['in_flight_count']} being served"
    )


def dump(status: Status) -> str:
    """The whole dump, of the event loop that runs. Call it on that loop."""
    sections = {
        "What it waits for": list(_waits(status)),
        "Tasks": list(_tasks(asyncio.all_tasks())),
        "Threads": list(_threads()),
    }
    lines = ["Dump of the launcher's state"]
    for title, found in sections.items():
        lines += [f"{title}:", *(f"  {line}" for line in found or ["nothing"])]
    return "\n".join(lines)


# --- in words --------------------------------------------------------------------------------


def _waits(status: Status) -> Iterator[str]:
    for obstacle in status["obstacles"]:
        yield f"Cannot serve: {obstacle}"
    for pool in status["pools"]:
        why = f"; the first waits for {pool['waits_for']}" if pool["waits_for"] else ""
        yield f"Pool {pool['pool']}: waiting requests: {pool['waiting']}{why}"
    for entry in status["waiting"]:
        yield f"Request {entry['request']} in pool {entry['pool']}: waits for {entry['waits_for']}"
    for entry in status["in_flight"]:
        yield f"Request {entry['request']} in pool {entry['pool']}: being served"
        for node in entry["nodes"]:
            yield f"  {_launch(node)}"
    for node_id in _deletions(asyncio.all_tasks()):
        yield f"Node {node_id}: being deleted"


def _launch(node: Mapping[str, Any]) -> str:
    text = f"Node {node['node']} ({node['label']}): "
    text += "ready" if node["state"] == "ready" else f"waits for {node['waits_for']}"
    return f"{text}; its last attempt failed: {node['failure']}" if node["failure"] else text


def _deletions(tasks: Iterable[asyncio.Task[Any]]) -> list[str]:
    names = (task.get_name() for task in tasks)
    return sorted(name.removeprefix(DELETION) for name in names if name.startswith(DELETION))


DELETION = "delete node "
"""How the name of a task that deletes a node begins."""


# --- tasks -----------------------------------------------------------------------------------


def _tasks(tasks: Iterable[asyncio.Task[Any]]) -> Iterator[str]:
    for task in sorted(tasks, key=asyncio.Task.get_name):
        awaited = _awaited(task)
        yield f"{task.get_name()}{f', awaits {awaited}' if awaited else ''}"
        for line in _chain(task.get_coro()):
            yield f"  {line}"


def _chain(awaitable: Any) -> Iterator[str]:
    """Where each coroutine stands, the outermost first.

    ``Task.get_stack`` has the outermost alone.
    """
    while awaitable is not None:
        frame = _any(awaitable, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None:
            yield _place(frame)
        awaitable = _any(awaitable, "cr_await", "gi_yieldfrom", "ag_await")


def _any(thing: Any, *names: str) -> Any:
    return next((getattr(thing, name) for name in names if hasattr(thing, name)), None)


def _place(frame: FrameType) -> str:
    code: CodeType = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}"


def _awaited(task: asyncio.Task[Any]) -> str:
    """What wakes the task next: another task by its name, or the kind of a future."""
    # CPython's, documented nowhere, and the only one who knows.
    waiter = getattr(task, "_fut_waiter", None)
    if waiter is None:
        return ""
    if isinstance(waiter, asyncio.Task):
        return f"task {waiter.get_name()}"
    return f"a {type(waiter).__name__.strip('_')}"


# --- threads ---------------------------------------------------------------------------------


def _threads() -> Iterator[str]:
    frames = sys._current_frames()
    for thread in threading.enumerate():
        yield f"{thread.name}{' (daemon)' if thread.daemon else ''}"
        frame = frames.get(thread.ident or 0)
        for entry in traceback.extract_stack(frame) if frame else ():
            yield f"  {entry.filename}:{entry.lineno} {entry.name}"
