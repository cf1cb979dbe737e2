"""A cluster with a fake node, from outside: what it offers, outages, and complete removal."""

import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from cluster import LocalCluster, cli
from cluster.fakenode import MANUAL, NODE
from kazoo.client import KazooClient
from kubernetes import client

from tests.support.core_api import core, until

pytestmark = pytest.mark.integration


def create_pod(api: Any, image: str, annotations: dict[str, str] | None = None) -> str:
    name = f"pod-{uuid.uuid4().hex[:8]}"
    body = {
        "metadata": {"name": name, "annotations": annotations or {}},
        "spec": {
            "containers": [
                {"name": "c", "image": image, "resources": {"limits": {"amd.com/gpu": "1"}}}
            ]
        },
    }
    api.create_namespaced_pod("default", body)
    return name


def pod(api: Any, name: str) -> Any:
    try:
        return api.read_namespaced_pod(name, "default")
    except client.ApiException as error:
        if error.status != 404:
            raise
        return None


def is_ready(found: Any) -> bool:
    conditions = found.status.conditions or []
    return any(entry.type == "Ready" and entry.status == "True" for entry in conditions)


def test_a_pod_becomes_ready_and_goes(fake_cluster: LocalCluster) -> None:
    with core(fake_cluster) as api:
        name = create_pod(api, fake_cluster.image)
        until(lambda: is_ready(pod(api, name)))
        assert pod(api, name).spec.node_name == NODE

        api.delete_namespaced_pod(name, "default")
        until(lambda: pod(api, name) is None)


def test_a_manual_pod_is_left_to_the_test_but_can_be_deleted(fake_cluster: LocalCluster) -> None:
    with core(fake_cluster) as api:
        manual = create_pod(api, fake_cluster.image, {MANUAL: "true"})
        until(lambda: pod(api, manual).spec.node_name)
        other = create_pod(api, fake_cluster.image)
        until(lambda: is_ready(pod(api, other)))
        assert pod(api, manual).status.phase == "Pending"

        waiting = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
        entry = {
            "name": "c", "state": waiting, "ready": False, "image": "x", "imageID": "",
            "restartCount": 0,
        }  # fmt: skip
        api.patch_namespaced_pod_status(
            manual, "default", {"status": {"containerStatuses": [entry]}}
        )
        (status,) = pod(api, manual).status.container_statuses
        assert status.state.waiting.reason == "ErrImagePull"

        for name in (manual, other):
            api.delete_namespaced_pod(name, "default")
        until(lambda: pod(api, manual) is None and pod(api, other) is None)


def test_zookeeper_answers_on_its_plain_and_its_tls_port(fake_cluster: LocalCluster) -> None:
    ca, cert, key = fake_cluster.zookeeper_tls_files
    plain = KazooClient(fake_cluster.zookeeper)
    secure = KazooClient(
        fake_cluster.zookeeper_tls,
        use_ssl=True, ca=str(ca), certfile=str(cert), keyfile=str(key), check_hostname=True,
    )  # fmt: skip
    for zookeeper in (plain, secure):
        zookeeper.start()
    plain.create("/seen-by-both", b"1")
    assert secure.get("/seen-by-both")[0] == b"1"
    for zookeeper in (plain, secure):
        zookeeper.stop()
        zookeeper.close()


@pytest.mark.parametrize("name", ["kube-apiserver", "etcd", "zookeeper"])
def test_after_an_outage_ports_and_data_are_the_same(fake_cluster: LocalCluster, name: str) -> None:
    with core(fake_cluster) as api:
        before = api.read_namespace("default").metadata.uid
        fake_cluster.stop(name)
        assert not fake_cluster.is_up
        assert [each.name for each, well in fake_cluster.status() if each.pid and not well]

        fake_cluster.start(name)

        until(lambda: fake_cluster.is_up)
        assert api.read_namespace("default").metadata.uid == before


def test_a_paused_process_is_not_well_until_it_is_resumed(fake_cluster: LocalCluster) -> None:
    fake_cluster.pause("zookeeper")
    try:
        assert not fake_cluster.is_up
    finally:
        fake_cluster.resume("zookeeper")
    until(lambda: fake_cluster.is_up)


def test_the_command_line(fake_cluster: LocalCluster, own_environ: dict[str, str]) -> None:
    runner = CliRunner(env={**dict.fromkeys(("KUBECONFIG", "NODEPOOL_K8S_ZOOKEEPER"), None)})
    option = ["--folder", str(fake_cluster.kubeconfig.parent)]

    again = runner.invoke(cli.main, ["up", *option])
    assert again.exit_code == 0, again.output
    assert "already up" in again.output

    status = runner.invoke(cli.main, ["status", *option])
    assert status.exit_code == 0
    assert "kube-scheduler" in status.output

    variables = runner.invoke(cli.main, ["env", *option]).stdout
    assert variables.startswith("export KUBECONFIG=")
    assert f"NODEPOOL_K8S_ZOOKEEPER={fake_cluster.zookeeper} " in variables


def test_down_leaves_no_trace(tmp_path: Path, own_environ: dict[str, str]) -> None:
    folder = tmp_path / "cluster"
    cluster = LocalCluster(folder, "fake", own_environ)
    cluster.up()
    pids = [service.pid for service, _ in cluster.status()]
    assert len(pids) == 6
    # Including one that was stopped and one that was paused.
    cluster.stop("kube-scheduler")
    cluster.pause("etcd")

    LocalCluster(folder, environ=own_environ).down()

    assert not any(running(pid) for pid in pids)
    assert list(tmp_path.iterdir()) == []


def test_what_was_left_half_dead_is_replaced(tmp_path: Path, own_environ: dict[str, str]) -> None:
    folder = tmp_path / "cluster"
    cluster = LocalCluster(folder, "fake", own_environ)
    cluster.up()
    try:
        pids = [service.pid for service, _ in cluster.status()]
        psutil.Process(pids[0]).kill()

        LocalCluster(folder, "fake", own_environ).up()

        assert not any(running(pid) for pid in pids)
        assert LocalCluster(folder, environ=own_environ).is_up
    finally:
        LocalCluster(folder, environ=own_environ).down()


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
