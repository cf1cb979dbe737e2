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
from nodepool_k8s.launcher.daemon import Launcher
from nodepool_k8s.launcher.reload import ConfigFiles
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.operations import Operation

KILLED = 137
"""How a process ends that was killed by kill -9, as a shell says it."""

BEFORE, AFTER = "before", "after"

START, SERVE, STOP = "start", "serve", "stop"
"""When an effect came: until SIGUSR1 said that its start is over, then, and after SIGTERM."""

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


@dataclass(frozen=True, order=True)
class Effect:
    """One write of a launcher."""

    name: str
    occurrence: int
    """1 for the first of its name."""
    phase: str


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
        effect = Effect(name, self._seen[name], self.phase)
        self._die_at(effect, BEFORE)
        with self._notes.open("a") as stream:
            stream.write(json.dumps([name, effect.occurrence, effect.phase]) + "\n")
        try:
            return await send()
        finally:
            self._die_at(effect, AFTER)

    def _die_at(self, effect: Effect, when: str) -> None:
        # The phase may come a moment later or sooner.
        point = self._point
        if point is None or point.when != when:
            return
        if (point.effect.name, point.effect.occurrence) == (effect.name, effect.occurrence):
            os._exit(KILLED)


def noted(notes: Path) -> list[Effect]:
    """What a launcher has written, in its order."""
    if not notes.exists():
        return []
    return [Effect(*json.loads(line)) for line in notes.read_text().splitlines()]


# --- the process -----------------------------------------------------------------------------


def start(
    config: Path, kubeconfig: Path, folder: Path, point: CrashPoint | None, drain: float
) -> Any:
    """Start a launcher that dies at ``point``, or, without, only notes its effects.

    The process is multiprocessing's. ``folder`` gets its ``notes`` and its ``log``.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    arguments = (str(config), str(kubeconfig), folder, point, drain)
    process = context.Process(target=_main, args=arguments, daemon=True)
    process.start()
    return process


def _main(
    config: str, kubeconfig: str, folder: Path, point: CrashPoint | None, drain: float
) -> NoReturn:
    os.environ["KUBECONFIG"] = kubeconfig
    with (folder / "log").open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    logs.configure(logging.DEBUG)
    effects = Effects(folder / "notes", point)
    _wrap(effects)
    asyncio.run(_serve(ConfigFiles(config, None), effects, drain))
    sys.exit(0)


async def _serve(files: ConfigFiles, effects: Effects, drain: float) -> None:
    launcher = Launcher(files.load(), files=files, drain_timeout=drain, webapp=False)

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
    return "" if frame is None else frame.f_code.co_name.replace("_", " ")
