"""The launchers that are measured: their configuration, their process, what it takes.

Each one gets a ZooKeeper chroot of its own, so that none finds what another left.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from peer import files

from benchmark.errors import LauncherEnded
from benchmark.floor import PREFIX

LABELS = ("namespace", "pod")
"""A label for each kind of node, named as its kind."""
POOL = f"{PREFIX}pool"
STOP_S = 20.0
TAIL_LINES = 25
MIB = 2**20


@dataclass(frozen=True)
class Place:
    """Where a benchmark takes place: what it needs to know of the cluster.

    ``tls_files`` are the authority, the certificate and its key.
    """

    kubeconfig: str
    context: str
    zookeeper: str
    zookeeper_tls: str
    tls_files: tuple[str, str, str]
    image: str
    folder: Path
    """For configurations, logs and profiles."""


@dataclass(frozen=True)
class Recipe:
    """How to start a launcher. ``hosts`` is its ZooKeeper in kazoo's form, for the requestor."""

    name: str
    hosts: str
    argv: tuple[str, ...]
    kubeconfig: str
    log: Path
    web: str = ""
    """The address of its web server, where that is known before it starts."""

    def start(self) -> Launcher:
        """Start it."""
        return Launcher(self)


class Launcher:
    """One launcher process, started and stopped here."""

    def __init__(self, recipe: Recipe) -> None:
        self.name = recipe.name
        self.log = recipe.log
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                recipe.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "KUBECONFIG": recipe.kubeconfig},
            )
        self._usage = psutil.Process(self._process.pid)

    def check(self) -> None:
        """Raise if it has ended."""
        status = self._process.poll()
        if status is not None:
            raise LauncherEnded(f"{self.name} has ended with status {status}\n{self.tail()}")

    def cpu(self) -> float:
        """CPU seconds, user and system, that it has taken so far."""
        self.check()
        times = self._usage.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> float:
        """Its resident memory now, in MiB."""
        self.check()
        return float(self._usage.memory_info().rss / MIB)

    def tail(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"--- the end of {self.log}:", *lines[-TAIL_LINES:], "---"])

    def stop(self) -> None:
        """Ask it to end, and kill it where it doesn't."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def own(place: Place, run: int, profile: Path | None) -> Recipe:
    """This repository's launcher, on ZooKeeper's plain port; under cProfile if so asked."""
    chroot = f"nodepool-k8s-{run}"
    servers = files.server(place.zookeeper, f"/{chroot}")
    config = _write(place, chroot, configuration(place, {"zookeeper-servers": [servers]}))
    python = [sys.executable]
    if profile is not None:
        python += ["-m", "cProfile", "-o", str(profile)]
    argv = (*python, "-m", "nodepool_k8s", "launcher", "-c", config)
    return _recipe("nodepool-k8s", place, chroot, argv)


def own_with(place: Place, chroot: str, name: str, pool: dict[str, Any], port: int) -> Recipe:
    """This repository's launcher with one pool more, and its web server on that port."""
    document = configuration(
        place, {"zookeeper-servers": [files.server(place.zookeeper, f"/{chroot}")]}
    )
    document["labels"] += [{"name": label["name"]} for label in pool["labels"]]
    document["providers"][0]["pools"].append(pool)
    document["webapp"]["port"] = port
    config = _write(place, name, document)
    argv = (sys.executable, "-m", "nodepool_k8s", "launcher", "-c", config)
    recipe = _recipe(name, place, chroot, argv)
    log = place.folder / f"{name}.log"
    return dataclasses.replace(recipe, log=log, web=f"http://127.0.0.1:{port}")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def peer(place: Place, run: int, environment: Path) -> Recipe:
    """Nodepool itself, from that virtual environment, on ZooKeeper's TLS port: it insists."""
    chroot = f"peer-{run}"
    zookeeper = {
        "zookeeper-servers": [files.server(place.zookeeper_tls, f"/{chroot}")],
        "zookeeper-tls": files.tls(place.tls_files),
    }
    config = _write(place, chroot, configuration(place, zookeeper))
    # Its debugging log would be charged to it.
    logging = _write(place, "peer-logging", files.logging("INFO"))
    pid = str(place.folder / f"{chroot}.pid")
    argv = files.command(environment, config, logging, pid)
    return _recipe("nodepool", place, chroot, argv)


def _recipe(name: str, place: Place, chroot: str, argv: tuple[str, ...]) -> Recipe:
    return Recipe(
        name=name,
        hosts=f"{place.zookeeper}/{chroot}",
        argv=argv,
        kubeconfig=place.kubeconfig,
        log=place.folder / f"{chroot}.log",
    )


def configuration(place: Place, zookeeper: dict[str, Any]) -> dict[str, Any]:
    """A nodepool.yaml that both launchers read."""
    pod = {"name": "pod", "type": "pod", "image": place.image, "cpu": 1, "memory": 128}
    pool = {
        "name": POOL,
        "max-servers": 1000,
        "labels": [{"name": "namespace", "type": "namespace"}, pod],
    }
    provider = {
        "name": "bench",
        "driver": "kubernetes",
        "context": place.context,
        "pools": [pool],
    }
    labels = [{"name": name} for name in LABELS]
    # Another launcher on this machine may have the usual port.
    webapp = {"port": 0, "listen_address": "127.0.0.1"}
    return {**zookeeper, "webapp": webapp, "labels": labels, "providers": [provider]}


def _write(place: Place, name: str, document: dict[str, Any]) -> str:
    path = place.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return str(path)
