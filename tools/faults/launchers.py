"""The launchers: processes that can be killed, frozen and started again, each on its own wires."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from faults import site
from faults.injector import Injector
from faults.judge import Judge
from faults.plan import Limits
from faults.site import Place
from faults.wire import Wire

STOP_S = 45.0
POLL_S = 0.1
TAIL_LINES = 40
UNFORESEEN = re.compile(r"^.*(?:Traceback|nobody foresaw|was never awaited).*$", re.MULTILINE)


class Launcher:
    """One launcher, through all its lives."""

    def __init__(
        self,
        name: str,
        place: Place,
        zookeeper: Wire,
        api: Wire,
        injector: Injector,
        upkeep: float,
        judge: Judge,
    ) -> None:
        self.name = name
        self.zookeeper = zookeeper
        self.api = api
        self.injector = injector
        self.log = place.folder / f"{name}.log"
        self.busy = False
        """Whether a fault works on it."""
        self._place = place
        self._upkeep = upkeep
        self._judge = judge
        self._config = place.folder / f"{name}.yaml"
        self._kubeconfig = place.folder / f"{name}.kubeconfig"
        self._configured = Limits(), 1
        self._process: subprocess.Popen[bytes] | None = None
        self._logged = 0
        """How long the log was when it was started."""
        site.write_kubeconfig(self._kubeconfig, f"http://{api.address}")

    def configure(self, limits: Limits, spare: int) -> None:
        """Change its configuration, which it takes up by itself."""
        self._configured = limits, spare
        site.write_config(self._config, self._place, self.zookeeper.address, limits, spare)

    def break_configuration(self) -> None:
        """Put an error into it."""
        self._config.write_text("providers: [what is this\n", encoding="utf-8")

    def mend_configuration(self) -> None:
        """Make it again what it was, or ought to be by now."""
        self.configure(*self._configured)

    def start(self) -> None:
        """Start it; its log is appended to."""
        self._logged = self._size_of_log()
        argv = [sys.executable, "-m", "faults.quick", str(self._upkeep)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*argv, "-d", "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "KUBECONFIG": str(self._kubeconfig),
                },
            )

    async def has_started(self) -> None:
        """Wait until it has read its configuration: before that, a bad one ends it, rightly."""
        while self._size_of_log() == self._logged:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)

    def _size_of_log(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def check(self) -> None:
        """Accuse it if it has ended by itself; start it again then, as its supervisor would."""
        if self.busy or self._process is None or self._process.poll() is None:
            return
        what = f"{self.name} has ended with status {self._process.returncode}"
        self._judge.accuse("a launcher goes on", f"{what}\n{self.tail()}", self.name)
        self.start()

    async def kill(self) -> None:
        """kill -9: no goodbye to anybody."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        """SIGTERM; its exit status."""
        return await self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._signal(number)
        try:
            return await asyncio.to_thread(self._process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return -signal.SIGKILL

    def text(self) -> str:
        """Its whole log."""
        return read(self.log)

    def unforeseen(self) -> list[str]:
        """Lines of its log that a launcher never ought to write."""
        return UNFORESEEN.findall(self.text())

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.text().splitlines()[-TAIL_LINES:])


def read(path: Path) -> str:
    """A log, or nothing where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
