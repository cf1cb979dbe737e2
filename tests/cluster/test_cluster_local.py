"""What LocalCluster does in error cases; no cluster is needed."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from cluster import ClusterError, LocalCluster, Quiet, building, java, machine, state
from cluster.environment import exports
from cluster.state import Endpoints, State

KUBECONFIG = {
    "current-context": "site",
    "contexts": [{"name": "site", "context": {"cluster": "c", "user": "u"}}],
    "clusters": [{"name": "c", "cluster": {"server": "https://k8s.example:6443"}}],
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment without Docker, binaries or a named cluster."""
    return {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}


def test_a_cluster_that_the_environment_names_is_used_as_it_is(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(yaml.safe_dump(KUBECONFIG))
    named = {"KUBECONFIG": str(kubeconfig), "NODEPOOL_K8S_ZOOKEEPER": "zk1:2181,zk2:2181"}
    folder = tmp_path / "cluster"

    with LocalCluster(folder, environ=named) as cluster:
        assert cluster.is_up
        assert cluster.context == "site"
        assert cluster.api_server_url == "https://k8s.example:6443"
        assert cluster.zookeeper == "zk1:2181,zk2:2181"
        assert exports(cluster.endpoints)["KUBECONFIG"] == str(kubeconfig)
        with pytest.raises(ClusterError, match="not ours"):
            cluster.stop("zookeeper")

    assert kubeconfig.exists()
    assert not folder.exists()


def test_a_kubeconfig_without_a_current_context_is_refused(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text("contexts: []\n")
    named = {"KUBECONFIG": str(kubeconfig), "NODEPOOL_K8S_ZOOKEEPER": "zk:2181"}

    with pytest.raises(ClusterError, match="current context"):
        LocalCluster(tmp_path / "cluster", environ=named).up()


def test_an_up_that_fails_shows_the_log_and_leaves_nothing(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho it is broken; exit 1\n")
    broken.chmod(0o755)

    def obtain(_: building.Binaries, names: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(names, str(broken))

    monkeypatch.setattr(building.Binaries, "obtain", obtain)
    monkeypatch.setattr(building.Binaries, "stages", lambda _: tmp_path)
    monkeypatch.setattr(java, "runtime", lambda *_: str(broken))
    monkeypatch.setattr(java, "zookeeper_jars", lambda *_: [])
    folder = tmp_path / "cluster"

    with pytest.raises(ClusterError, match=r"(?s)etcd ended unexpectedly.*it is broken"):
        LocalCluster(folder, "fake", environ).up()

    assert not folder.exists()


def test_an_interrupted_up_leaves_nothing(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building.Binaries, "obtain", interrupt)
    folder = tmp_path / "cluster"

    with pytest.raises(KeyboardInterrupt):
        LocalCluster(folder, "fake", environ).up()

    assert not folder.exists()


def test_a_real_node_that_cannot_be_is_refused_with_the_reason(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "obstacle", lambda *_: "it takes root")
    folder = tmp_path / "cluster"

    with pytest.raises(ClusterError, match="it takes root"):
        LocalCluster(folder, "real", environ).up()

    assert not folder.exists()


def test_without_root_the_line_to_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(machine, "missing_packages", lambda: ["containerd"])

    assert "apt-get install --no-install-recommends containerd" in machine.obstacle(
        tmp_path, Quiet()
    )


def test_a_cluster_with_other_nodes_is_not_handed_out(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    endpoints = Endpoints("k", "local", "https://127.0.0.1:1", "127.0.0.1:2", "fake", "busybox")
    state.save(tmp_path / "state.json", State("processes", "fake", True, endpoints))

    with pytest.raises(ClusterError, match="fake nodes"):
        LocalCluster(tmp_path, "real", environ).up()


def test_down_without_a_cluster_is_no_error(tmp_path: Path, environ: dict[str, str]) -> None:
    LocalCluster(tmp_path / "none", environ=environ).down()

    assert not (tmp_path / "none").exists()


def test_down_leaves_a_folder_that_is_not_a_clusters(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    (tmp_path / "thesis.txt").touch()

    LocalCluster(tmp_path, environ=environ).down()

    assert (tmp_path / "thesis.txt").exists()


def test_up_refuses_a_folder_that_holds_something_else(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    (tmp_path / "thesis.txt").touch()

    with pytest.raises(ClusterError, match="not empty"):
        LocalCluster(tmp_path, "fake", environ).up()

    assert (tmp_path / "thesis.txt").exists()


def test_endpoints_without_a_cluster_say_what_to_do(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    with pytest.raises(ClusterError, match="bring it up first"):
        _ = LocalCluster(tmp_path / "none", environ=environ).zookeeper
