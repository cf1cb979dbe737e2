"""A launcher as a process: started, awaited by what it logs, signalled, stopped by its pid."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.waiting import until

SERVING = "Serving pools"
"""Logged when the pools are registered in ZooKeeper."""
CONNECTED = "Connected to the cluster of provider"
"""Logged, with the provider's name, when its API server has answered."""
STOP_S = 45.0
"""Longer than a launcher takes to return what is in flight."""
POLL_S = 0.02
TAIL_LINES = 40


class LauncherEnded(Exception):
    """The process has ended by itself; its message has the status, its note the end of its log."""


def command(config: Path | str, *options: str) -> list[str]:
    """The command line of this repository's launcher."""
    return [sys.executable, "-m", "nodepool_k8s", "launcher", "-c", str(config), *options]


def tail(log: Path) -> str:
    """The last lines of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])


class LauncherProcess:
    """One process, whose output is appended to a log file."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        environ: Mapping[str, str],
        *,
        new_session: bool = False,
    ) -> None:
        """Start it; in a new session, Ctrl-C on the terminal does not reach it."""
        self.log = log
        with log.open("ab") as stream:
            self._log_start = stream.tell()
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                start_new_session=new_session,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def check(self) -> None:
        """Raise LauncherEnded if it has ended."""
        if self.status is not None:
            error = LauncherEnded(f"{self.log.stem} ended with status {self.status}")
            error.add_note(self.tail())
            raise error

    # --- its log ---------------------------------------------------------------------------

    def text(self) -> str:
        """What it has logged."""
        with self.log.open("rb") as stream:
            stream.seek(self._log_start)
            return stream.read().decode(errors="replace")

    def tail(self) -> str:
        """The last lines that it has logged."""
        return tail(self.log)

    async def logged(self, text: str, within: float) -> None:
        """Wait until a text is in its log. Raises LauncherEnded, TimeoutError."""

        def found() -> bool:
            if text in self.text():
                return True
            self.check()
            return False

        try:
            await until(found, f"{text!r} in {self.log}", within, POLL_S)
        except TimeoutError as error:
            error.add_note(self.tail())
            raise

    # --- ending it -------------------------------------------------------------------------

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.status is None:
            self._process.send_signal(number)

    def end(self, number: int = signal.SIGTERM, within: float = STOP_S) -> int:
        """Send a signal and wait for the end; killed if that takes longer. Its exit status."""
        self.send_signal(number)
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    async def wait(self, within: float = STOP_S) -> int:
        """Wait until it ends by itself; its exit status. Raises subprocess.TimeoutExpired."""
        return await asyncio.to_thread(self._process.wait, within)

    async def terminate(self) -> int:
        """Stop it by SIGTERM; its exit status."""
        return await asyncio.to_thread(self.end)

    async def kill(self) -> None:
        """Kill it by SIGKILL."""
        await asyncio.to_thread(self.end, signal.SIGKILL)
