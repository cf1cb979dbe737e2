"""How the client finds ZooKeeper, and the exit statuses of invalid command lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from nodepool_k8s.cli import group
from nodepool_k8s.client import NoZooKeeper
from nodepool_k8s.client.discovery import find_zookeeper
from nodepool_k8s.zookeeper_settings import BadAddress, ZooKeeperTLS, tls_files, zookeeper_at


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("zk", "zk:2181"),
        ("zk:2281/zuul", "zk:2281/zuul"),
        ("a:1, b:2,c/x/y", "a:1,b:2,c:2181/x/y"),
        ("[::1]:99,10.0.0.1", "[::1]:99,10.0.0.1:2181"),
    ],
)
def test_addresses_are_parsed_as_in_kazoo(text: str, hosts: str) -> None:
    assert zookeeper_at(text).hosts == hosts


@pytest.mark.parametrize("text", ["", "/x", "a:", "a:0", "a:65536", "a b", "a,,b", "::1", "a:b"])
def test_an_invalid_address_is_an_error(text: str) -> None:
    with pytest.raises(BadAddress, match=r"expected HOST:PORT\[,HOST:PORT\.\.\.\]\[/CHROOT\]"):
        zookeeper_at(text)


def test_tls_needs_all_of_its_files() -> None:
    assert tls_files(None, "", None) is None
    assert tls_files("c", "k", "a") == ZooKeeperTLS("c", "k", "a")
    with pytest.raises(BadAddress, match="key, ca is missing"):
        tls_files("c", None, None)


def test_arguments_override_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "nodepool.yaml"
    file.write_text("zookeeper-servers: [{host: in-file, port: 1}]\nlabels: []\nproviders: []\n")
    environ = {"NODEPOOL_K8S_ZOOKEEPER": "in-environment:2", "NODEPOOL_K8S_CONFIG": str(file)}
    for options, hosts in (
        ({"zookeeper": "given:3", "config": str(file)}, "given:3"),
        ({"config": str(file)}, "in-file:1"),
        ({}, "in-environment:2"),
    ):
        assert find_zookeeper(**options, environ=environ).hosts == hosts  # type: ignore[arg-type]
    del environ["NODEPOOL_K8S_ZOOKEEPER"]
    assert find_zookeeper(environ=environ).hosts == "in-file:1"
    with pytest.raises(NoZooKeeper, match="the ZooKeeper servers are unknown"):
        find_zookeeper(environ={})


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["pod"], 64, "Missing argument 'COMMAND...'"),
        (["pod", "--timeout", "soon", "--", "true"], 64, "is not a duration"),
        (["pod", "--env", "=x", "--", "true"], 64, "is not NAME=VALUE"),
        (["pod", "--env", "NOT_THERE_AT_ALL", "--", "true"], 64, "is not in the environment"),
        (["pod", "--upload", "/nowhere", "--", "true"], 64, "does not exist"),
        (["pod", "--zookeeper", "a b", "--", "true"], 64, "is not a ZooKeeper address"),
        (["pod", "--zookeeper-tls-cert", "x", "--", "true"], 64, "key, ca is missing"),
        (["pod", "-c", "/nowhere", "--", "true"], 78, "/nowhere"),
        (["pod", "--zookeeper", "127.0.0.1:9", "--", "true"], 75, "no ZooKeeper answered"),
    ],
)
def test_failures_to_start_have_their_own_exit_status(
    arguments: list[str], status: int, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodepool_k8s.zookeeper.client.CONNECT_TIMEOUT", 0.1)
    monkeypatch.delenv("NODEPOOL_K8S_ZOOKEEPER", raising=False)
    found = CliRunner().invoke(group, ["run", *arguments], prog_name="nodepool-k8s")
    assert found.exit_code == status, found.output
    assert complaint in found.output
