"""The Docker source, with stand-ins for the libraries: what is recorded, and what is removed."""

import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import ClusterError, LocalCluster, Quiet, docker, probing

KUBECONFIG = yaml.safe_dump(
    {
        "current-context": "default",
        "clusters": [{"name": "default", "cluster": {"server": "https://localhost:1"}}],
    }
)


class Engine:
    """Tracks the containers that were started and not removed."""

    def __init__(self) -> None:
        self.running: dict[str, Any] = {}
        self.failing = ""

    def container(self, image: str) -> Any:
        engine = self

        class Container:
            ports: dict[str, tuple[str, int]]

            def with_volume_mapping(self, *_: str) -> None: ...

            def start(self) -> None:
                engine.running[image] = self
                if image == engine.failing:
                    raise TimeoutError(image)

            def get_wrapped_container(self) -> Any:
                return types.SimpleNamespace(id=image)

            def config_yaml(self) -> str:
                return KUBECONFIG

        return Container()

    def get(self, identity: str) -> Any:
        return types.SimpleNamespace(
            status="running", remove=lambda **_: self.running.pop(identity)
        )

    def library(self, name: str) -> Any:
        if name == "docker":
            return types.SimpleNamespace(
                from_env=lambda: types.SimpleNamespace(containers=self),
                errors=types.SimpleNamespace(NotFound=KeyError),
            )
        return types.SimpleNamespace(
            testcontainers_config=types.SimpleNamespace(ryuk_disabled=False),
            DockerContainer=self.container,
            K3SContainer=self.container,
        )


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    monkeypatch.setattr(docker, "_library", engine.library)
    monkeypatch.setattr(docker, "answers", lambda _: True)
    monkeypatch.setattr(probing, "healthy", lambda _: True)
    return engine


def test_up_and_down(tmp_path: Path, engine: Engine) -> None:
    folder = tmp_path / "cluster"
    cluster = LocalCluster(folder, "auto", {})
    cluster.up()

    assert cluster.is_up
    assert cluster.nodes == "real"
    assert cluster.api_server_url == "https://localhost:1"
    published = [ours for each in engine.running.values() for ours in each.ports.values()]
    assert len(published) == 3
    assert {host for host, _ in published} == {"127.0.0.1"}
    assert cluster.zookeeper.endswith(str(published[0][1]))

    LocalCluster(folder, environ={}).down()

    assert not engine.running
    assert not folder.exists()


def test_a_container_that_never_became_ready_is_removed_too(tmp_path: Path, engine: Engine) -> None:
    engine.failing = docker.K3S_IMAGE

    with pytest.raises(TimeoutError):
        LocalCluster(tmp_path / "cluster", "real", {}).up(Quiet())

    assert not engine.running
    assert not (tmp_path / "cluster").exists()


def test_zookeeper_that_does_not_answer_is_told(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "ZOOKEEPER_PATIENCE_S", 0.0)
    monkeypatch.setattr(probing, "healthy", lambda _: False)

    with pytest.raises(ClusterError, match="does not answer"):
        LocalCluster(tmp_path / "cluster", "real", {}).up()

    assert not engine.running


def test_a_client_without_an_engine_is_no_answer(tmp_path: Path) -> None:
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\nexit 1\n")
    client.chmod(0o755)

    assert not docker.answers({"PATH": str(tmp_path)})
    assert not docker.answers({"PATH": str(tmp_path / "none")})

    client.write_text("#!/bin/sh\necho 28.0\n")

    assert docker.answers({"PATH": str(tmp_path)})
