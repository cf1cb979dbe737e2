"""Nodepool itself, as a process beside our launchers: same ZooKeeper, same API server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

from harness import nodepool_yaml, yamlfile
from harness.launcher import LauncherProcess
from harness.requestor import NODES, POOLS, REQUEST_LOCKS
from harness.zookeeper import Record
from peer import files

from tests.support.admin import Admin
from tests.support.site import Options, Site, SiteMaker
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

SESSION_S = 4.0
"""The shortest that the server grants: how long a killed launcher seems to be alive."""
START_S = 60.0
ROUND = "Finished handler assignment"
"""Logged each time when it has looked at all requests."""


class Peer:
    """One of Nodepool's launchers."""

    def __init__(self, site: Site, environment: Path, name: str) -> None:
        self.log = site.path.with_name(f"{name}.log")
        self._site = site
        self._environment = environment
        logging = site.path.with_name(f"{name}-logging.yaml")
        yamlfile.replace(logging, files.logging("DEBUG"))
        pid = str(site.path.with_name(f"{name}.pid"))
        argv = files.command(environment, str(site.path), str(logging), pid)
        self.process = LauncherProcess(argv, self.log, self._environ())

    def text(self) -> str:
        return self.process.text()

    async def ready(self) -> Peer:
        """Wait until it has looked at the waiting requests."""
        await self.process.logged(ROUND, START_S)
        return self

    async def looked(self) -> None:
        """Wait until it has looked at all requests, and for spare nodes, once more."""
        before = self._rounds()
        # The current round may have passed the request already; its loops run every second.
        await eventually(lambda: self._rounds() > before + 2, "Nodepool has looked at all requests")

    def _rounds(self) -> int:
        return self.text().count(ROUND)

    async def upkeep_done(self) -> None:
        """Wait until it has done its upkeep, which it does at its start."""

        def check() -> bool:
            return "nodepool.CleanupWorker: Finished cleanup" in self.text()

        await eventually(check, "its upkeep is done")

    async def command(self, *arguments: str) -> str:
        """Run its command ``nodepool``, which must succeed; what it prints."""
        argv = [str(self._environment / "bin" / "nodepool"), "-c", str(self._site.path)]
        done = await asyncio.to_thread(
            subprocess.run,
            [*argv, *arguments],
            capture_output=True,
            text=True,
            timeout=START_S,
            env=self._environ(),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def _environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "KUBECONFIG": str(self._site.cluster.kubeconfig),
            "COLUMNS": "200",
        }

    # --- ending it -----------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop it by SIGINT: it unregisters at once and abandons its launches."""
        self.process.send_signal(signal.SIGINT)
        await self.process.wait()

    async def kill(self) -> None:
        """Kill it by SIGKILL: its locks stay until its session expires."""
        await self.process.kill()


class Peers:
    """Nodepool's launchers of one test, and what they leave."""

    def __init__(self, make_site: SiteMaker, environment: Path, zuul: Zuul, admin: Admin) -> None:
        self._make_site = make_site
        self._environment = environment
        self._zuul = zuul
        self._admin = admin
        self._started: list[Peer] = []
        self._providers: set[str] = set()

    async def start(self, *providers: Options, top: Options | None = None) -> Peer:
        """Start one, and wait until it serves."""
        return await self.start_unready(*providers, top=top).ready()

    def start_unready(self, *providers: Options, top: Options | None = None) -> Peer:
        """Start one with those providers, given as to ``SiteMaker``, on ZooKeeper's TLS port."""
        cluster = self._make_site.cluster
        server = nodepool_yaml.server(cluster.zookeeper_tls, self._make_site.chroot)
        zookeeper = {
            "zookeeper-servers": [server],
            "zookeeper-tls": nodepool_yaml.tls(cluster.zookeeper_tls_files),
            "zookeeper-timeout": SESSION_S,
        }
        site = self._make_site.of(list(providers), {**zookeeper, **(top or {})})
        peer = Peer(site, self._environment, f"peer-{len(self._started)}")
        self._started.append(peer)
        self._providers |= {provider["name"] for provider in providers}
        return peer

    async def namespace(self, node: Record) -> bool:
        """Whether a node's namespace is there and stays."""
        found = await self._admin.namespace(node["external_id"])
        return found is not None and "deletionTimestamp" not in found["metadata"]

    async def clear(self) -> None:
        """End them, and remove what they created: they themselves would be slow at it.

        Also removes what stopped launchers of ours created, as no launcher will.
        """
        for peer in self._started:
            await peer.kill()
        await self._end_sessions()
        running = {component["provider_name"] for component in await self._zuul.components()}
        for node_id, node in (await self._zuul.nodes()).items():
            if node["provider"] not in running:
                await self._delete_all(f"{NODES}/{node_id}")
        for name in await self._namespaces(running):
            await self._admin.delete_namespace(name)

    async def _end_sessions(self) -> None:
        """Remove what outlives a dead launcher until its session expires: pools and locks."""
        sessions = set()
        for name in await self._zuul.children(POOLS):
            path = f"{POOLS}/{name}"
            component = await self._zuul.get(path)
            if component and component["provider_name"] in self._providers:
                sessions.add(await self._owner(path))
                await self._delete_all(path)
        for request_id in await self._zuul.children(REQUEST_LOCKS):
            for name in await self._zuul.children(f"{REQUEST_LOCKS}/{request_id}"):
                path = f"{REQUEST_LOCKS}/{request_id}/{name}"
                if await self._owner(path) in sessions:
                    await self._delete_all(path)

    async def _owner(self, path: str) -> int | None:
        stat = await self._zuul.do(self._zuul.kazoo.exists, path)
        return stat.ephemeralOwner if stat else None

    async def _delete_all(self, path: str) -> None:
        await self._zuul.do(self._zuul.kazoo.delete, path, recursive=True)

    async def _namespaces(self, running: set[str]) -> list[str]:
        """The names of this test's namespaces that no launcher will remove."""
        path = "/api/v1/namespaces?labelSelector=nodepool_provider_name"
        found = [entry["metadata"] for entry in (await self._admin.call("GET", path))["items"]]
        return [
            metadata["name"]
            for metadata in found
            if metadata["name"].startswith(self._make_site.pool)
            and metadata["labels"]["nodepool_provider_name"] not in running
        ]
