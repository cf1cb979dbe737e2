"""Launcher processes that are killed, frozen and restarted, each behind proxies of its own."""

from __future__ import annotations

import os
import re
import signal
import sys

from harness import kubeconfig
from harness.launcher import STOP_S, LauncherProcess
from harness.proxy import Proxy
from harness.waiting import until

from faults import site
from faults.injector import Injector
from faults.judge import Judge
from faults.plan import Limits
from faults.site import Place

POLL_S = 0.1
UNEXPECTED = re.compile(r"^.*(?:Traceback| CRITICAL |was never awaited).*$", re.MULTILINE)


class Launcher:
    """One launcher, through all its lives."""

    def __init__(
        self,
        name: str,
        place: Place,
        zookeeper: Proxy,
        api: Proxy,
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
        """Whether a fault affects it."""
        self._place = place
        self._upkeep = upkeep
        self._judge = judge
        self._config = place.folder / f"{name}.yaml"
        self._kubeconfig = place.folder / f"{name}.kubeconfig"
        self._configured = Limits(), 1
        self._process: LauncherProcess | None = None
        kubeconfig.write(self._kubeconfig, site.CONTEXT, f"http://{api.address}")

    def configure(self, limits: Limits, spare: int) -> None:
        """Change its configuration, which it takes up by itself."""
        self._configured = limits, spare
        site.write_config(self._config, self._place, self.zookeeper.address, limits, spare)

    def break_configuration(self) -> None:
        """Put an error into it."""
        self._config.write_text("providers: [what is this\n", encoding="utf-8")

    def restore_configuration(self) -> None:
        """Restore the configuration that was last meant for it."""
        self.configure(*self._configured)

    def start(self) -> None:
        """Start it; its log is appended to."""
        argv = [sys.executable, "-m", "faults.quick", str(self._upkeep)]
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "KUBECONFIG": str(self._kubeconfig),
        }
        self._process = LauncherProcess([*argv, "-d", "-c", str(self._config)], self.log, environ)

    async def has_started(self) -> None:
        """Wait until it has read its configuration: before that, a bad one rightly ends it."""
        await until(self._running.text, f"the log of {self.name}", STOP_S, POLL_S)

    @property
    def _running(self) -> LauncherProcess:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    def check(self) -> None:
        """Report it if it has ended by itself, and restart it, as its supervisor would."""
        if self.busy or self._running.status is None:
            return
        what = f"{self.name} has ended with status {self._running.status}"
        self._judge.accuse("a launcher goes on", f"{what}\n{self.tail()}", self.name)
        self.start()

    async def kill(self) -> None:
        """Kill it by SIGKILL."""
        await self._running.kill()

    async def terminate(self) -> int:
        """SIGTERM; its exit status."""
        return await self._running.terminate()

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        self._running.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._running.send_signal(signal.SIGCONT)

    def text(self) -> str:
        """Its whole log, since its first start."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def unexpected(self) -> list[str]:
        """Lines of its log that a launcher must never write."""
        return UNEXPECTED.findall(self.text())

    def tail(self) -> str:
        """The last lines of its log."""
        return self._running.tail()
