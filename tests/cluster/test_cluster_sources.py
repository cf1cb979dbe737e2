"""The choice of a cluster's source and nodes."""

from pathlib import Path

import pytest
from cluster import sources
from cluster.errors import ClusterError

FOLDER = Path("/somewhere/.localcluster")
NAMED = {"KUBECONFIG": "/home/me/config", "NODEPOOL_K8S_ZOOKEEPER": "zk1:2181,zk2:2181"}


@pytest.mark.parametrize(
    ("environ", "nodes", "docker_answers", "expected"),
    [
        (NAMED, "fake", True, "environment"),
        (NAMED, "real", False, "environment"),
        ({}, "auto", True, "docker"),
        ({}, "real", True, "docker"),
        ({}, "fake", True, "processes"),
        ({}, "auto", False, "processes"),
        ({"KUBECONFIG": "/home/me/config"}, "auto", False, "processes"),
    ],
)
def test_the_order_of_sources(
    environ: dict[str, str], nodes: str, docker_answers: bool, expected: str
) -> None:
    choice = sources.choose_source(environ, FOLDER, nodes, docker_answers=docker_answers)

    assert choice.value == expected
    assert choice.reason


def test_what_env_printed_for_its_own_folder_is_ignored() -> None:
    environ = {**NAMED, "KUBECONFIG": str(FOLDER / "kubeconfig")}

    assert not sources.named_by_environment(environ, FOLDER)
    assert sources.named_by_environment(environ, Path("/another"))


def test_zookeeper_alone_is_refused_rather_than_guessed_about() -> None:
    with pytest.raises(ClusterError, match="KUBECONFIG is not"):
        sources.named_by_environment({"NODEPOOL_K8S_ZOOKEEPER": "zk:2181"}, FOLDER)


@pytest.mark.parametrize(
    ("requested", "obstacle", "expected"),
    [
        ("fake", "", "fake"),
        ("auto", "", "real"),
        ("real", "", "real"),
        ("auto", "it takes root", "fake"),
    ],
)
def test_real_nodes_where_the_machine_allows_them(
    requested: str, obstacle: str, expected: str
) -> None:
    choice = sources.choose_nodes(requested, obstacle)

    assert choice.value == expected
    assert obstacle in choice.reason


def test_a_requested_real_node_is_never_replaced_by_a_fake() -> None:
    with pytest.raises(ClusterError, match="it takes root"):
        sources.choose_nodes("real", "it takes root")
