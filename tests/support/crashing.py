"""A launcher that dies on purpose, just before or just after one of its own effects.

An effect is a write that it sends: to ZooKeeper (a transaction, a sequence, a path that is
made where missing) or to the API server (POST, PATCH, DELETE). Each has a name, which says
which function writes and what, with ids masked, and a count of earlier effects of that name:
concurrent effects come in any order, and are distinguished by it.

Runs in a process that is forked from one which has imported everything: starting Python for
every death would take most of the time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from nodepool_k8s import logs
from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.driver import KubernetesDriverFactory
from nodepool_k8s.launcher.daemon import Launcher
from nodepool_k8s.launcher.intervals import Intervals
from nodepool_k8s.launcher.reload import ConfigFiles
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.operations import Operation

KILLED = 137
"""The exit status of a process killed by SIGKILL, as a shell shows it."""

BEFORE, AFTER = "before", "after"

START, SERVE, STOP = "start", "serve", "stop"
"""The phase of an effect: before SIGUSR1 marks the end of the start, after it, after SIGTERM."""

SENT, ANSWERED = "sent", "answered"

_MASKS = (
    (re.compile(r"^/nodepool(-k8s)?/"), ""),
    (re.compile(r"[0-9a-f]{32}__lock__\d{10}"), "LOCK"),
    (re.compile(r"\d{3}-\d{10}"), "REQUEST"),
    (re.compile(r"namespaces/main-[\w-]+"), "namespaces/NAMESPACE"),
    (re.compile(r"main-[0-9a-f]{8}"), "POOL"),
    (re.compile(r"(components/pool|clusters)/.+"), r"\1/..."),
    (re.compile(r"\d{10}"), "NODE"),
    (re.compile(r"[0-9a-f]{32}"), "ID"),
)

_NO_EFFECTS = ("selfsubjectaccessreviews", "/clusterroles")
"""Queries that are POSTed, and what the first launcher creates once in a cluster."""


@dataclass(frozen=True)
class Effect:
    """One write of a launcher."""

    name: str
    occurrence: int
    """1 for the first of its name."""

    @property
    def kind(self) -> str:
        """Its name without what depends on the number of nodes."""
        sender, colon, operations = self.name.partition(": ")
        return sender + colon + ", ".join(dict.fromkeys(operations.split(", ")))


@dataclass(frozen=True)
class CrashPoint:
    """Where a launcher dies."""

    effect: Effect
    when: str


class Effects:
    """Counts a launcher's writes, notes them in a file, and ends the process at a crash point."""

    def __init__(self, notes: Path, point: CrashPoint | None) -> None:
        self._notes = notes
        self._point = point
        self._seen: Counter[str] = Counter()
        self.phase = START

    async def around(self, name: str, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send one effect, unless the crash point is before it."""
        self._seen[name] += 1
        effect = Effect(name, self._seen[name])
        self._die_at(effect, BEFORE)
        self._note(SENT, effect)
        try:
            return await send()
        finally:
            self._die_at(effect, AFTER)
            self._note(ANSWERED, effect)

    def _note(self, event: str, effect: Effect) -> None:
        with self._notes.open("a") as stream:
            entry = [event, self.phase, effect.name, effect.occurrence]
            stream.write(json.dumps(entry) + "\n")

    def _die_at(self, effect: Effect, when: str) -> None:
        if self._point == CrashPoint(effect, when):
            os._exit(KILLED)


def noted(notes: Path, event: str = SENT, phase: str | None = None) -> list[Effect]:
    """A launcher's effects in order, of one phase or of all."""
    if not notes.exists():
        return []
    # Its last line may be incomplete.
    lines = [line for line in notes.read_text().splitlines(keepends=True) if line.endswith("\n")]
    entries = [json.loads(line) for line in lines]
    return [
        Effect(*entry[2:]) for entry in entries if entry[0] == event and phase in (None, entry[1])
    ]


# --- the process -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Orders:
    """How to start a launcher."""

    config: Path
    kubeconfig: Path
    folder: Path
    """Gets its ``notes`` and its ``log``."""
    drain: float
    intervals: Intervals
    point: CrashPoint | None
    """Where it dies; None to only note its effects."""


def start(orders: Orders) -> Any:
    """Start a launcher; the process is multiprocessing's."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_main, args=(orders,), daemon=True)
    process.start()
    return process


def _main(orders: Orders) -> NoReturn:
    os.environ["KUBECONFIG"] = str(orders.kubeconfig)
    folder = orders.folder
    with (folder / "log").open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    logs.configure(logging.DEBUG)
    effects = Effects(folder / "notes", orders.point)
    _wrap(effects)
    asyncio.run(_serve(orders, effects))
    sys.exit(0)


async def _serve(orders: Orders, effects: Effects) -> None:
    files = ConfigFiles(str(orders.config), None)
    launcher = Launcher(
        files.load(),
        KubernetesDriverFactory(),
        files=files,
        drain_timeout=orders.drain,
        intervals=orders.intervals,
        webapp=False,
    )

    def stop() -> None:
        effects.phase = STOP
        launcher.stop()

    def serve() -> None:
        effects.phase = SERVE

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGUSR1, serve)
    await launcher.run()


# --- what is wrapped --------------------------------------------------------------------------


def _wrap(effects: Effects) -> None:
    """Route everything that the launcher's two adapters send through ``effects``."""
    _wrap_transaction(effects)
    for method in ("create_sequence", "ensure_path"):
        _wrap_path(effects, ZooKeeperClient, method, method.replace("_", " "))
    for method in ("post", "patch", "delete"):
        _wrap_path(effects, ApiClient, method, method.upper())


def _wrap_transaction(effects: Effects) -> None:
    original = ZooKeeperClient.transaction

    async def transaction(self: ZooKeeperClient, operations: Sequence[Operation]) -> None:
        name = f"{_sender()}: " + ", ".join(_told(operation) for operation in operations)
        await effects.around(name, lambda: original(self, operations))

    ZooKeeperClient.transaction = transaction  # type: ignore[method-assign]


def _wrap_path(effects: Effects, adapter: type, method: str, verb: str) -> None:
    original = getattr(adapter, method)

    async def wrapped(self: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        if path.endswith(_NO_EFFECTS) or {"dryRun": "All"} in args:
            return await original(self, path, *args, **kwargs)
        name = f"{verb} {masked(path)}"
        return await effects.around(name, lambda: original(self, path, *args, **kwargs))

    setattr(adapter, method, wrapped)


def _told(operation: Operation) -> str:
    verbs = {"Check": "check", "Create": "create", "SetData": "set", "Delete": "delete"}
    return f"{verbs[type(operation).__name__]} {masked(operation.path)}"


def masked(path: str) -> str:
    """A path without the parts that differ between runs."""
    for pattern, instead in _MASKS:
        path = pattern.sub(instead, path)
    return path


_HELPERS = ("_", "transact")
"""Prefixes of functions that only pass on the writes of others."""


def _sender() -> str:
    """The name of the store's function that writes."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name.startswith(_HELPERS):
        frame = frame.f_back
    assert frame is not None
    assert "nodepool_k8s" in frame.f_code.co_filename, "a write that no function of ours sends"
    return frame.f_code.co_name.replace("_", " ")
