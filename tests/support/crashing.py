"""A launcher that dies on purpose: right before, or right after, one of its own effects.

An effect is a write that it sends: to ZooKeeper (a transaction, a sequence, a path that is
made where missing) or to the API server (POST, PATCH, DELETE). Each has a name, which tells
who writes and what, with ids masked, and how often that was written before: effects that run
side by side come in any order, and are told apart all the same.

Runs in a process of its own that is forked from one which has imported everything: to start
Python anew for every death would take most of the time.
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
"""How a process ends that was killed by kill -9, as a shell says it."""

BEFORE, AFTER = "before", "after"

START, SERVE, STOP = "start", "serve", "stop"
"""When an effect came: until SIGUSR1 said that its start is over, then, and after SIGTERM."""

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
"""Questions that are POSTed, and what is made once in a cluster: by whoever comes first."""


@dataclass(frozen=True)
class Effect:
    """One write of a launcher."""

    name: str
    occurrence: int
    """1 for the first of its name."""

    @property
    def kind(self) -> str:
        """Its name without what depends on how many nodes it is about."""
        sender, colon, operations = self.name.partition(": ")
        return sender + colon + ", ".join(dict.fromkeys(operations.split(", ")))


@dataclass(frozen=True)
class CrashPoint:
    """Where a launcher is to die."""

    effect: Effect
    when: str


class Effects:
    """Numbers what a launcher writes, notes it in a file, and ends the process where it is told."""

    def __init__(self, notes: Path, point: CrashPoint | None) -> None:
        self._notes = notes
        self._point = point
        self._seen: Counter[str] = Counter()
        self.phase = START

    async def around(self, name: str, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send one effect, unless the launcher is to die before it."""
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
    """What a launcher has written, in its order; in one phase, or in all."""
    if not notes.exists():
        return []
    # Its last line may be half there.
    lines = [line for line in notes.read_text().splitlines(keepends=True) if line.endswith("\n")]
    entries = [json.loads(line) for line in lines]
    return [
        Effect(*entry[2:]) for entry in entries if entry[0] == event and phase in (None, entry[1])
    ]


# --- the process -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Orders:
    """How a launcher is to be started."""

    config: Path
    kubeconfig: Path
    folder: Path
    """Gets its ``notes`` and its ``log``."""
    drain: float
    intervals: Intervals
    point: CrashPoint | None
    """Where it dies; None: it only notes its effects."""


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
    """Put ``effects`` between the launcher and whatever its two adapters send."""
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
    """A path without what differs from one run to the next."""
    for pattern, instead in _MASKS:
        path = pattern.sub(instead, path)
    return path


_HELPERS = ("_", "transact")
"""How the functions begin that only pass on what others want to be written."""


def _sender() -> str:
    """The name of the store's function that has something written."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name.startswith(_HELPERS):
        frame = frame.f_back
    assert frame is not None
    assert "nodepool_k8s" in frame.f_code.co_filename, "a write that no function of ours sends"
    return frame.f_code.co_name.replace("_", " ")
