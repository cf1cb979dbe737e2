"""Launchers under test: in the test's own event loop, or as a process that can be killed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from harness.launcher import SERVING, STOP_S, LauncherProcess, command
from kazoo.protocol.connection import _CONNECTION_DROP  # kazoo's own tests use it, too.

from nodepool_k8s.config.settings import ZooKeeperSettings
from nodepool_k8s.kubernetes.driver import KubernetesDriverFactory
from nodepool_k8s.launcher import daemon
from nodepool_k8s.launcher.daemon import Launcher
from nodepool_k8s.launcher.intervals import NORMAL, Intervals
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.observer import ZooKeeperObserver
from tests.support.admin import Admin
from tests.support.site import Site
from tests.support.waiting import PATIENCE_S, eventually
from tests.support.zuul import Zuul


class RunningLauncher:
    """A launcher in this event loop."""

    def __init__(
        self, site: Site, clients: list[ZooKeeperClient], intervals: Intervals = NORMAL
    ) -> None:
        files = site.files()
        self.launcher = Launcher(
            files.load(), KubernetesDriverFactory(), files=files, intervals=intervals
        )
        self._clients = clients
        """This launcher's connections, one a session."""
        self._others = asyncio.all_tasks()
        self.task = asyncio.create_task(self.launcher.run(), name="launcher under test")

    async def ready(self) -> RunningLauncher:
        """Wait until it serves."""

        def check() -> bool:
            if self.task.done():
                self.task.result()
                raise RuntimeError("the launcher has ended")
            return self.launcher.ready.is_set()

        await eventually(check, "the launcher serves")
        return self

    async def stop(self) -> None:
        """Stop it as SIGTERM does; it ends without an error."""
        if not self.task.done():
            self.launcher.stop()
        async with asyncio.timeout(STOP_S):
            await self.task

    @property
    def clients(self) -> list[ZooKeeperClient]:
        """Its connections to ZooKeeper, one a session, the oldest first."""
        return self._clients

    @property
    def kazoo(self) -> Any:
        """The kazoo client that it speaks to ZooKeeper through."""
        return self._clients[-1]._kazoo

    @property
    def connections(self) -> int:
        """How often it has connected to ZooKeeper."""
        return sum(client.connections for client in self._clients)

    def drop_connection(self) -> None:
        """Cut its connection to ZooKeeper; its session lives on."""
        self.kazoo._call(_CONNECTION_DROP, self.kazoo.handler.async_result())

    def left_tasks(self) -> set[asyncio.Task[Any]]:
        """The tasks that it started and did not end."""
        here = asyncio.current_task()
        return {
            task
            for task in asyncio.all_tasks() - self._others
            if task not in (here, self.task) and not task.done()
        }


class Launchers:
    """The launchers of one test; at its end they must have left nothing behind."""

    def __init__(
        self, zuul: Zuul, admin: Admin, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._monkeypatch = monkeypatch
        self._zuul = zuul
        self._admin = admin
        self._folder = folder
        self._running: list[RunningLauncher] = []
        self._processes: list[LauncherProcess] = []

    async def start(self, site: Site, intervals: Intervals = NORMAL) -> RunningLauncher:
        """Start one in this event loop, and wait until it serves."""
        return await self.start_unready(site, intervals).ready()

    def start_unready(self, site: Site, intervals: Intervals = NORMAL) -> RunningLauncher:
        clients: list[ZooKeeperClient] = []

        def connect(settings: ZooKeeperSettings, observer: ZooKeeperObserver) -> ZooKeeperClient:
            clients.append(ZooKeeperClient(settings, observer))
            return clients[-1]

        self._monkeypatch.setattr(daemon, "ZooKeeperClient", connect)
        running = RunningLauncher(site, clients, intervals)
        self._running.append(running)
        return running

    async def spawn(self, site: Site, *options: str) -> LauncherProcess:
        """Start one as a process, and wait until it serves."""
        process = self.spawn_unready(site, *options)
        await process.logged(SERVING, PATIENCE_S)
        return process

    def spawn_unready(self, site: Site, *options: str) -> LauncherProcess:
        log = self._folder / f"launcher-{len(self._processes)}.log"
        secure = [] if site.secure_path is None else ["-s", str(site.secure_path)]
        environ = {"KUBECONFIG": str(site.cluster.kubeconfig), **os.environ}
        process = LauncherProcess(command(site.path, "-d", *secure, *options), log, environ)
        self._processes.append(process)
        return process

    async def stop_all(self) -> None:
        """Stop every launcher; nodes that are ready, in use or held stay."""
        for running in self._running:
            await running.stop()
        for process in self._processes:
            await process.terminate()

    async def leave_nothing(self) -> None:
        """Return every node, stop, and check that nothing was left behind."""
        alive = [each for each in self._running if not each.task.done()]
        processes = [each for each in self._processes if each.status is None]
        if alive or processes:
            await self.return_nodes()
        for running in self._running:
            await running.stop()
        for running in self._running:
            assert not running.left_tasks()
        for process in processes:
            assert await process.terminate() == 0
        if alive or processes:
            await self._check_nothing_left()

    async def return_nodes(self) -> None:
        """Return every node, and wait until all records are gone."""

        async def check() -> bool:
            await self._zuul.tidy()
            left = await self._zuul.states()
            assert not left, left
            return True

        await eventually(check, "every node's record gone")

    async def _check_nothing_left(self) -> None:
        async def nothing_ephemeral() -> bool:
            others = {"elsewhere"}  # Registered by the test itself.
            hosts = {entry["hostname"] for entry in await self._zuul.components()}
            return hosts <= others and not await self._zuul.held_locks()

        # Ephemeral znodes of a killed launcher last as long as its session.
        killed = any(each.status for each in self._processes)
        await eventually(nothing_ephemeral, "no lock, no pool", timeout=10 if killed else 0)
        for pool, claimed in (await self._zuul.ledgers()).items():
            assert not any(claimed.values()), (pool, claimed)
        deployment = await self._zuul.deployment()

        async def none_left() -> bool:
            return not await self._admin.namespaces(deployment)

        # A namespace that is being deleted is not listed.
        await eventually(none_left, "no namespace left", timeout=5)

    async def end(self) -> None:
        """Stop every launcher that a failed test left running."""
        for running in self._running:
            if not running.task.done():
                running.task.cancel()
                await asyncio.wait({running.task})
        for process in self._processes:
            if process.status is None:
                await process.kill()
