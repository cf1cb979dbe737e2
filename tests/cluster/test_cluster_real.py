"""A cluster with a real node, from outside: pods run in it, and nothing is left behind."""

import contextlib
import gc
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import LocalCluster, images, realnode
from kubernetes import client
from kubernetes.stream import portforward, stream

from tests.support.core_api import core, until

# The Kubernetes client leaves the sockets of exec and port-forward to the garbage collector.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]

# Sleeps as a launcher's pod does, serves a file, and ends when asked to.
SCRIPT = """
trap 'exit 0' TERM
echo started
httpd -p 127.0.0.1:8080 -h /etc
while :; do sleep 1; done
"""


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Close what the client left open while the warning about it is still ignored."""
    yield
    gc.collect()


def a_pod(name: str, image: str, **more: Any) -> dict[str, Any]:
    container = {"name": "c", "image": image, "command": ["/bin/sh", "-c", SCRIPT], **more}
    return {"metadata": {"name": name}, "spec": {"containers": [container]}}


def phase(api: Any, name: str) -> str:
    return str(api.read_namespaced_pod(name, "default").status.phase)


def waiting_reason(api: Any, name: str) -> str:
    statuses = api.read_namespaced_pod(name, "default").status.container_statuses or []
    waiting = [status.state.waiting for status in statuses if status.state.waiting]
    return str(waiting[0].reason) if waiting else ""


@pytest.fixture(scope="module")
def running_pod(real_cluster: LocalCluster) -> str:
    with core(real_cluster) as api:
        api.create_namespaced_pod("default", a_pod("runs", real_cluster.image))
        until(lambda: phase(api, "runs") == "Running")
    return "runs"


def test_a_command_runs_in_it(real_cluster: LocalCluster, running_pod: str) -> None:
    with core(real_cluster) as api:
        output = stream(
            api.connect_get_namespaced_pod_exec, running_pod, "default",
            command=["sh", "-c", "echo from $((40 + 2))"], stdout=True, stderr=True,
        )  # fmt: skip
    assert output == "from 42\n"


def test_its_log_can_be_read(real_cluster: LocalCluster, running_pod: str) -> None:
    with core(real_cluster) as api:
        until(lambda: "started" in api.read_namespaced_pod_log(running_pod, "default"))


def test_its_ports_can_be_reached(real_cluster: LocalCluster, running_pod: str) -> None:
    with core(real_cluster) as api:
        forwarded = portforward(
            api.connect_get_namespaced_pod_portforward, running_pod, "default", ports="8080"
        )
        connection = forwarded.socket(8080)
        connection.settimeout(10)
        connection.sendall(b"GET /passwd HTTP/1.0\r\n\r\n")
        assert b"root:x:0:0" in _all_of(connection)
        connection.close()


def test_the_image_of_nodepools_example_is_there(real_cluster: LocalCluster) -> None:
    with core(real_cluster) as api:
        api.create_namespaced_pod("default", a_pod("example", "docker.io/fedora:28"))
        until(lambda: phase(api, "example") == "Running")


def test_a_missing_image_is_told_soon(real_cluster: LocalCluster) -> None:
    never = {"imagePullPolicy": "Never"}
    with core(real_cluster) as api:
        api.create_namespaced_pod("default", a_pod("absent", "localhost:1/absent:1"))
        api.create_namespaced_pod("default", a_pod("never", "absent:1", **never))
        until(lambda: waiting_reason(api, "absent") in ("ErrImagePull", "ImagePullBackOff"))
        until(lambda: waiting_reason(api, "never") == "ErrImageNeverPull")


@pytest.mark.parametrize("name", ["kubelet", "containerd"])
def test_a_pod_outlives_an_outage_of_the_node(
    real_cluster: LocalCluster, running_pod: str, name: str
) -> None:
    real_cluster.stop(name)
    real_cluster.start(name)

    with core(real_cluster) as api:
        found = api.read_namespaced_pod(running_pod, "default")
        assert found.status.container_statuses[0].restart_count == 0
        until(lambda: exec_works(api, running_pod))


def exec_works(api: Any, name: str) -> bool:
    try:
        output = stream(
            api.connect_get_namespaced_pod_exec, name, "default", command=["echo", "hi"],
            stdout=True, stderr=True,
        )  # fmt: skip
    except client.ApiException:
        return False
    return bool(output == "hi\n")


@pytest.mark.parametrize("killed", ["", "node", "containerd", "kubelet"])
def test_down_leaves_no_trace(
    tmp_path: Path, real_folder: Path, own_environ: dict[str, str], killed: str
) -> None:
    before = everything(tmp_path)
    cluster = LocalCluster(tmp_path / "cluster", "real", own_environ)
    with cluster, core(cluster) as api:
        api.create_namespaced_pod("default", a_pod("runs", images.FEDORA))
        until(lambda: phase(api, "runs") == "Running")
        assert everything(tmp_path) != before
        services = {service.name: service for service, _ in cluster.status()}
        if killed:
            psutil.Process(services[killed].pid).kill()

    until(lambda: not any(runs_below(tmp_path)))
    assert everything(tmp_path) == before


def everything(folder: Path) -> dict[str, set[str]]:
    """What a node could leave on the machine, apart from processes."""
    system = ("/var/lib", "/var/log", "/run", "/tmp", "/usr/libexec", "/opt", "/etc")
    groups = realnode.CGROUPS
    return {
        "mounts": set(Path("/proc/mounts").read_text().splitlines()),
        "links": {name for _, name in socket.if_nameindex()},
        "cgroups": {str(path) for path in groups.glob("*/k8s.io/*")} | {
            str(path) for path in groups.glob("k8s.io/*")
        },
        "forwarding": {Path("/proc/sys/net/ipv4/ip_forward").read_text()},
        "system": {
            str(path)
            for top in system
            for path in Path(top).glob("*")
            if any(word in path.name for word in ("cni", "kube", "containerd", "npk8s", "netns"))
        },
        "folder": {str(path) for path in folder.iterdir()},
    }  # fmt: skip


def runs_below(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in argument for argument in process.cmdline()):
                found.append(process.pid)
    return found


def _all_of(connection: Any) -> bytes:
    content = b""
    while chunk := connection.recv(4096):
        content += chunk
    return content
