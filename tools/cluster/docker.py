"""A cluster from Docker images (k3s, ZooKeeper), by testcontainers.

Written against their documentation, and not run by our own CI, whose machines have no engine.
"""

import importlib
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from . import pki, ports, probing, state
from .errors import ClusterError
from .layout import Layout
from .progress import Progress
from .state import Endpoints, Probe, State

K3S_IMAGE = "rancher/k3s:v1.34.4-k3s1"
ZOOKEEPER_IMAGE = "zookeeper:3.9.4"
POD_IMAGE = "docker.io/library/busybox:1.35"
API_PORT = 6443
ANSWER_S = 5.0
ZOOKEEPER_PATIENCE_S = 60.0
POLL_S = 0.1
_SETTINGS = """\
tickTime=2000
dataDir=/data
clientPort=2181
secureClientPort=2281
serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory
ssl.keyStore.location=/pki/zookeeper.pem
ssl.keyStore.type=PEM
ssl.trustStore.location=/pki/ca.crt
ssl.trustStore.type=PEM
ssl.clientAuth=need
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=*
"""


def answers(environ: Mapping[str, str]) -> bool:
    """Whether an engine answers; a client alone is not enough."""
    command = shutil.which("docker", path=environ.get("PATH"))
    if not command:
        return False
    # Not by the library: it leaves its socket open when no engine answers.
    ask = [command, "version", "--format", "{{.Server.Version}}"]
    try:
        asked = subprocess.run(
            ask, env=dict(environ), timeout=ANSWER_S, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def healthy(current: State) -> bool:
    """Whether all of the cluster's containers run."""
    return bool(current.containers) and all(
        _container(identity).status == "running" for identity in current.containers
    )


class DockerStack:
    """Two containers; the name of a control plane process stands for its container."""

    def __init__(self, layout: Layout, current: State) -> None:
        self._layout = layout
        self._state = current

    def up(self, progress: Progress) -> None:
        # It would otherwise remove the containers as soon as this process ends.
        _library("testcontainers.core.config").testcontainers_config.ryuk_disabled = True
        claimed = ports.allocate(["api", "zookeeper", "zookeeper-tls"])
        keys = pki.make(self._layout.pki)
        with progress.step(f"starting {ZOOKEEPER_IMAGE} in Docker"):
            self._start_zookeeper(claimed)
        with progress.step(f"starting {K3S_IMAGE} in Docker"):
            kubeconfig = self._start_k3s(claimed)
        self._layout.kubeconfig.write_text(kubeconfig, encoding="utf-8")
        config: dict[str, Any] = yaml.safe_load(kubeconfig)
        self._state.endpoints = Endpoints(
            kubeconfig=str(self._layout.kubeconfig),
            context=config["current-context"],
            api_server_url=config["clusters"][0]["cluster"]["server"],
            zookeeper=f"{ports.HOST}:{claimed['zookeeper']}",
            zookeeper_tls=f"{ports.HOST}:{claimed['zookeeper-tls']}",
            tls_ca=keys.ca,
            tls_cert=keys.cert("zookeeper-client"),
            tls_key=keys.key("zookeeper-client"),
            nodes=self._state.nodes,
            image=POD_IMAGE,
        )
        self._state.ready = True
        self._save()

    def down(self, _: Progress) -> None:
        for identity in self._state.containers:
            _remove(identity)
        self._layout.remove()

    def stop(self, name: str) -> None:
        self._of(name).stop()

    def start(self, name: str) -> None:
        self._of(name).start()

    def pause(self, name: str) -> None:
        self._of(name).pause()

    def resume(self, name: str) -> None:
        self._of(name).unpause()

    def _start_zookeeper(self, claimed: dict[str, int]) -> None:
        config = self._layout.config / "zoo.cfg"
        config.write_text(_SETTINGS, encoding="utf-8")
        container = _library("testcontainers.core.container").DockerContainer(ZOOKEEPER_IMAGE)
        container.with_volume_mapping(str(config), "/conf/zoo.cfg", "ro")
        container.with_volume_mapping(str(_readable_pki(self._layout)), "/pki", "ro")
        self._start(container, {2181: claimed["zookeeper"], 2281: claimed["zookeeper-tls"]})
        probe = Probe("zookeeper", f"{ports.HOST}:{claimed['zookeeper']}")
        deadline = time.monotonic() + ZOOKEEPER_PATIENCE_S
        while not probing.healthy(probe):
            if time.monotonic() > deadline:
                raise ClusterError(f"{ZOOKEEPER_IMAGE} does not answer on {probe.address}")
            time.sleep(POLL_S)

    def _start_k3s(self, claimed: dict[str, int]) -> str:
        container = _library("testcontainers.community.k3s").K3SContainer(image=K3S_IMAGE)
        self._start(container, {API_PORT: claimed["api"]})
        return str(container.config_yaml())

    def _start(self, container: Any, published: dict[int, int]) -> None:
        # Only these, and only on loopback, whatever the class would publish.
        container.ports = {str(port): (ports.HOST, ours) for port, ours in published.items()}
        try:
            container.start()
        finally:
            # It may run although waiting for it failed, and must then be removed as well.
            started = container.get_wrapped_container()
            if started is not None:
                self._state.containers.append(started.id)
                self._save()

    def _of(self, name: str) -> Any:
        # In the order in which `up` started them.
        zookeeper, k3s = self._state.containers
        return _container(zookeeper if name == "zookeeper" else k3s)

    def _save(self) -> None:
        state.save(self._layout.state, self._state)


def _library(name: str) -> Any:
    # Imported late: slow to import, and needed only with an engine.
    return importlib.import_module(name)


def _readable_pki(layout: Layout) -> Path:
    # The image's own user reads these, through a folder that only we could enter otherwise.
    target = layout.config / "pki"
    target.mkdir(exist_ok=True)
    for name in ("zookeeper.pem", "ca.crt"):
        shutil.copyfile(layout.pki / name, target / name)
        (target / name).chmod(0o644)
    return target


def _container(identity: str) -> Any:
    return _library("docker").from_env().containers.get(identity)


def _remove(identity: str) -> None:
    client = _library("docker")
    try:
        client.from_env().containers.get(identity).remove(force=True, v=True)
    except client.errors.NotFound:
        return
