"""The launcher as a process of the demo's own: started, watched, stopped."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from demonstration.errors import DemoError

START_SECONDS = 60.0
STOP_SECONDS = 45.0
"""Longer than the launcher itself takes for giving back what is in flight."""
POLL_SECONDS = 0.02
TAIL_LINES = 40


class LauncherProcess:
    """One `nodepool-k8s launcher`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    @asynccontextmanager
    async def started(
        cls, config: Path, environ: Mapping[str, str], log: Path
    ) -> AsyncIterator[LauncherProcess]:
        """Start it; at the end of the block it is stopped, and killed if that takes too long."""
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "nodepool_k8s", "launcher", "-c", str(config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=dict(environ),
                # Of its own, so that Ctrl-C reaches it when we say so, and not before.
                start_new_session=True,
            )
        launcher = cls(process, log)
        try:
            yield launcher
        finally:
            await asyncio.shield(launcher.stop())

    async def serving(self, provider: str) -> None:
        """Wait until it has connected to the provider's cluster."""
        told = f"Connected to the cluster of provider {provider}"
        try:
            async with asyncio.timeout(START_SECONDS):
                while told not in self._log.read_text(encoding="utf-8", errors="replace"):
                    self.check()
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as error:
            raise DemoError(f"the launcher serves nothing after {START_SECONDS:.0f} s") from error

    def check(self) -> None:
        """Raise if it has ended by itself."""
        if self._process.returncode is not None:
            raise DemoError(f"the launcher ended with status {self._process.returncode}")

    async def stop(self) -> int:
        """Ask it to stop, and wait; its exit status."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()


def tail(log: Path) -> str:
    """The end of a launcher's log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-TAIL_LINES:])
