"""Clusters of these tests' own, besides any that the environment names."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import LocalCluster, Quiet, machine, sources


@pytest.fixture(scope="session")
def own_environ() -> dict[str, str]:
    """The environment without a cluster or a Docker engine: these tests are about processes."""
    without = (sources.KUBECONFIG, sources.ZOOKEEPER, "DOCKER_HOST")
    return {name: value for name, value in os.environ.items() if name not in without}


@pytest.fixture(scope="module")
def fake_cluster(
    tmp_path_factory: pytest.TempPathFactory, own_environ: dict[str, str]
) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("fake") / "cluster"
    with LocalCluster(folder, "fake", own_environ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for a real node; tests that use it are skipped if the machine cannot have one."""
    folder = tmp_path_factory.mktemp("real")
    obstacle = machine.obstacle(folder, Quiet())
    if obstacle:
        pytest.skip(f"not run, for it needs a real node: {obstacle}")
    return folder / "cluster"


@pytest.fixture(scope="module")
def real_cluster(real_folder: Path, own_environ: dict[str, str]) -> Iterator[LocalCluster]:
    with LocalCluster(real_folder, "real", own_environ) as cluster:
        yield cluster
