"""The launcher's state in words: a line for systemd, and on SIGUSR2 a dump for the log.

The dump says what the launcher waits for, and where each task and each thread stands. It has
names, files and lines, and the texts of the snapshot: no values, so no secrets.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

from nodepool_k8s.model import NodeState
from nodepool_k8s.snapshot import LauncherSnapshot, LaunchingNode


def summary(snapshot: LauncherSnapshot) -> str:
    """The state in a line."""
    if snapshot.obstacles:
        return f"Cannot serve: {snapshot.obstacles[0]}"
    nodes = snapshot.records.nodes_by_state()
    states = ", ".join(f"{count} {state}" for state, count in nodes.items())
    return (
        f"pools: {len(snapshot.pools)}, nodes: {sum(nodes.values())}"
        f"{f' ({states})' if states else ''}, requests: {snapshot.waiting_count} waiting, "
        f"{snapshot.in_flight_count} being served"
    )


def dump(snapshot: LauncherSnapshot) -> str:
    """The whole dump, with the tasks of the running event loop."""
    sections = {
        "What it waits for": list(_waits(snapshot)),
        "Tasks": list(_tasks(asyncio.all_tasks())),
        "Threads": list(_threads()),
    }
    lines = ["Dump of the launcher's state"]
    for title, found in sections.items():
        lines += [f"{title}:", *(f"  {line}" for line in found or ["nothing"])]
    return "\n".join(lines)


# --- in words --------------------------------------------------------------------------------


def _waits(snapshot: LauncherSnapshot) -> Iterator[str]:
    for obstacle in snapshot.obstacles:
        yield f"Cannot serve: {obstacle}"
    for pool in snapshot.pools:
        why = f"; the first waits for {pool.waits_for}" if pool.waits_for else ""
        yield f"Pool {pool.key}: waiting requests: {pool.waiting}{why}"
    for waiting in snapshot.waiting:
        yield f"Request {waiting.id} in pool {waiting.pool}: waits for {waiting.waits_for}"
    for served in snapshot.in_flight:
        yield f"Request {served.id} in pool {served.pool}: being served"
        for node in served.nodes:
            yield f"  {_launch(node)}"
    for node_id in _deletions(asyncio.all_tasks()):
        yield f"Node {node_id}: being deleted"


def _launch(node: LaunchingNode) -> str:
    text = f"Node {node.id} ({node.label}): "
    text += "ready" if node.state is NodeState.READY else f"waits for {node.waits_for}"
    return f"{text}; its last attempt failed: {node.failure}" if node.failure else text


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
    # Undocumented in CPython, but nothing else says it.
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
