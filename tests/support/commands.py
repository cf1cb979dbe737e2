"""The programs as users and scripts run them: processes, in a pipe or on a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.site import Site

PATIENCE_S = 60


@dataclass(frozen=True)
class Done:
    """The result of a program."""

    status: int
    out: str
    err: str


def start(
    site: Site, *arguments: str, entry: str = "main", before: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """Start ``COMMAND -c FILE ...``, of the program whose entry point is named.

    With ``before``, those options stand before the command, and no ``-c`` is added.
    """
    command, *rest = arguments
    given = [*before, command, *rest] if before else [command, "-c", str(site.path), *rest]
    return subprocess.Popen(
        [*program(entry), *given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, COLUMNS="40"),
    )


def program(entry: str = "main") -> list[str]:
    """The command that starts a program, whether or not it is installed."""
    return [sys.executable, "-c", f"from nodepool_k8s import cli; cli.{entry}()"]


async def ended(process: subprocess.Popen[str], answer: str = "") -> Done:
    out, err = await asyncio.to_thread(process.communicate, answer, PATIENCE_S)
    return Done(process.returncode, out, err)


async def done(site: Site, *arguments: str, answer: str = "", **options: Any) -> Done:
    """Run a command to its end, in success or failure."""
    return await ended(start(site, *arguments, **options), answer)


async def run(site: Site, *arguments: str, **options: Any) -> str:
    """Run a command that succeeds; what it printed."""
    found = await done(site, *arguments, **options)
    assert found.status == 0, found
    return found.out


async def refused(site: Site, *arguments: str, status: int = 1, **options: Any) -> str:
    """Run a command that fails with that status; its error message."""
    found = await done(site, *arguments, **options)
    assert found.status == status, found
    assert "Traceback" not in found.err
    return found.err


async def listed(site: Site, *arguments: str) -> Any:
    """What a command prints with ``--json``."""
    return json.loads(await run(site, *arguments, "--json"))


async def on_terminal(site: Site, *arguments: str, width: int) -> list[str]:
    """Run a command that succeeds on a terminal of that width; the lines that it shows."""
    process, master = _start_on_terminal(site, *arguments, width=width)
    reading = asyncio.to_thread(_read_all, lambda: os.read(master, 65536))
    shown, found = await asyncio.gather(reading, ended(process))
    os.close(master)
    assert found.status == 0, (shown, found)
    return shown.decode().replace("\r\n", "\n").splitlines()


def _start_on_terminal(
    site: Site, command: str, *arguments: str, width: int
) -> tuple[subprocess.Popen[str], int]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [*program(), command, "-c", str(site.path), *arguments],
        stdin=subprocess.PIPE,
        stdout=slave,
        stderr=subprocess.PIPE,
        text=True,
        env={**environ, "TERM": "dumb"},
    )
    os.close(slave)
    return process, master


def _read_all(read: Callable[[], bytes]) -> bytes:
    shown = b""
    while True:
        try:
            piece = read()
        except OSError:  # How a terminal reports that no process has it open.
            return shown
        if not piece:
            return shown
        shown += piece
