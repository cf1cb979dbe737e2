"""The launchers that are measured: their configuration, their process, its CPU and memory.

Each one gets a ZooKeeper chroot of its own, so that none finds what another one left.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from harness import nodepool_yaml, yamlfile
from harness.launcher import LauncherProcess, command
from peer import files

from benchmark.floor import PREFIX

LABELS = ("namespace", "pod")
"""A label for each kind of node, named as its kind."""
POOL = f"{PREFIX}pool"
MIB = 2**20


@dataclass(frozen=True)
class Place:
    """The cluster of a benchmark, and its folder.

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
    """The URL of its web server, if that is known before it starts."""

    def start(self) -> Launcher:
        """Start it."""
        return Launcher(self)


class Launcher(LauncherProcess):
    """A launcher process whose CPU and memory are measured."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe.argv, recipe.log, {**os.environ, "KUBECONFIG": recipe.kubeconfig})
        self._usage = psutil.Process(self.pid)

    def cpu(self) -> float:
        """CPU seconds, user and system, that it has taken so far."""
        self.check()
        times = self._usage.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> float:
        """Its resident memory now, in MiB."""
        self.check()
        return float(self._usage.memory_info().rss / MIB)


def own(place: Place, run: int, profile: Path | None) -> Recipe:
    """This repository's launcher, on ZooKeeper's plain port; under cProfile with ``profile``."""
    chroot = f"nodepool-k8s-{run}"
    config = _write(place, chroot, configuration(place, place.zookeeper, chroot))
    python, *arguments = command(config)
    profiler = [] if profile is None else ["-m", "cProfile", "-o", str(profile)]
    return _recipe("nodepool-k8s", place, chroot, (python, *profiler, *arguments))


def own_with(place: Place, chroot: str, name: str, pool: dict[str, Any], port: int) -> Recipe:
    """This repository's launcher with a further pool, and its web server on that port."""
    document = configuration(place, place.zookeeper, chroot)
    document["labels"] += [{"name": label["name"]} for label in pool["labels"]]
    document["providers"][0]["pools"].append(pool)
    document["webapp"]["port"] = port
    config = _write(place, name, document)
    recipe = _recipe(name, place, chroot, tuple(command(config)))
    log = place.folder / f"{name}.log"
    return dataclasses.replace(recipe, log=log, web=f"http://127.0.0.1:{port}")


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def peer(place: Place, run: int, environment: Path) -> Recipe:
    """Nodepool itself, from that virtual environment, on ZooKeeper's TLS port, as it requires."""
    chroot = f"peer-{run}"
    document = configuration(place, place.zookeeper_tls, chroot)
    document["zookeeper-tls"] = nodepool_yaml.tls(place.tls_files)
    config = _write(place, chroot, document)
    # Debug logging would add to its CPU time.
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


def configuration(place: Place, zookeeper: str, chroot: str) -> dict[str, Any]:
    """A nodepool.yaml that both launchers read; ``zookeeper`` is ``HOST:PORT``."""
    pod = {"name": "pod", "type": "pod", "image": place.image, "cpu": 1, "memory": 128}
    pool = {
        "name": POOL,
        "max-servers": 1000,
        "labels": [{"name": "namespace", "type": "namespace"}, pod],
    }
    servers = [nodepool_yaml.server(zookeeper, f"/{chroot}")]
    provider = {"name": "bench", "pools": [pool]}
    return nodepool_yaml.document(servers, [provider], context=place.context)


def _write(place: Place, name: str, document: dict[str, Any]) -> str:
    path = place.folder / f"{name}.yaml"
    yamlfile.replace(path, document)
    return str(path)
