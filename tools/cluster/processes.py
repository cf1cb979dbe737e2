"""Processes that outlive this one: in sessions of their own, ended only if still the same."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable

import psutil

from .state import Service

TERM_PATIENCE_S = 10.0
KILL_PATIENCE_S = 10.0
POLL_S = 0.02
# The start time is computed from the clock, which may be set a little while a cluster is up.
CLOCK_TOLERANCE_S = 2.0


def start(service: Service) -> None:
    """Start it and note its pid. Its log is appended to, so that a restart keeps the reason."""
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    out = (
        os.POSIX_SPAWN_OPEN, 1, service.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644,
    )  # fmt: skip
    # Not subprocess: these outlive this process, and a session of their own keeps a Ctrl-C at
    # the terminal from reaching them before `down` does.
    service.pid = os.posix_spawnp(
        service.argv[0],
        service.argv,
        {**os.environ, **service.env},
        file_actions=[null, out, (os.POSIX_SPAWN_DUP2, 1, 2)],
        setsid=True,
    )
    service.started = _started(service.pid)


def _started(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return 0.0


def alive(service: Service) -> bool:
    """Whether the very process that was recorded is running."""
    if not service.pid:
        return False
    _reap(service.pid)
    try:
        process = psutil.Process(service.pid)
        same = abs(process.create_time() - service.started) < CLOCK_TOLERANCE_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _reap(pid: int) -> None:
    # Only for children of this process; init reaps the others.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def send(service: Service, number: signal.Signals) -> None:
    """Signal its process group, if it is still the process that was recorded."""
    if alive(service):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.pid, number)


def stop(services: Iterable[Service], patience: float = TERM_PATIENCE_S) -> None:
    """End them together: by SIGTERM, and by SIGKILL if they remain."""
    running = [service for service in services if alive(service)]
    for service in running:
        send(service, signal.SIGTERM)
        # A paused process would not see the first signal.
        send(service, signal.SIGCONT)
    for service in _wait(running, patience):
        send(service, signal.SIGKILL)
    _wait(running, KILL_PATIENCE_S)


def _wait(services: list[Service], patience: float) -> list[Service]:
    deadline = time.monotonic() + patience
    left = [service for service in services if alive(service)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = [service for service in left if alive(service)]
    return left


def tail(log: str, lines: int = 15) -> str:
    """The end of a log, for an error message."""
    try:
        with open(log, encoding="utf-8", errors="replace") as stream:
            return "".join(stream.readlines()[-lines:]).rstrip()
    except FileNotFoundError:
        return "(no log)"
