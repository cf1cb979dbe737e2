"""Clusters for the whole run, and for each test a ZooKeeper chroot, a site and launchers in it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cluster import LocalCluster, Quiet, machine
from harness import kubeconfig
from harness.zookeeper import create_chroot, delete_chroot
from hypothesis import HealthCheck, settings

from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import SiteMaker
from tests.support.zuul import Zuul

# Durations depend on how busy the machine is; tests are about behaviour.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def fake_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster whose node only reports that pods run, or the one that the environment names."""
    with LocalCluster(tmp_path_factory.mktemp("fake") / "cluster", "fake") as cluster:
        if cluster.nodes != "fake":
            pytest.skip("not run: the cluster that the environment names has no fake nodes")
        yield cluster


@pytest.fixture(scope="session")
def real_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster with a kubelet, where this machine can run one."""
    folder = tmp_path_factory.mktemp("real")
    obstacle = machine.obstacle(folder, Quiet())
    if obstacle:
        pytest.skip(f"not run: a real node cannot run here: {obstacle}")
    with LocalCluster(folder / "cluster", "real") as cluster:
        if cluster.nodes != "real":
            pytest.skip("not run: the cluster that the environment names has no real nodes")
        yield cluster


@pytest.fixture
def local_cluster(request: pytest.FixtureRequest) -> LocalCluster:
    """The real cluster for tests marked e2e, else the fake one."""
    real = request.node.get_closest_marker("e2e") is not None
    found: LocalCluster = request.getfixturevalue("real_cluster" if real else "fake_cluster")
    return found


@pytest.fixture
async def admin(local_cluster: LocalCluster) -> AsyncIterator[Admin]:
    access = kubeconfig.access(local_cluster.kubeconfig, local_cluster.context)
    async with Admin.connected(access) as admin:
        yield admin


@pytest.fixture
async def chroot(local_cluster: LocalCluster) -> AsyncIterator[str]:
    """A chroot in ZooKeeper of this test: a deployment of its own."""
    path = f"/test-{uuid.uuid4().hex}"
    hosts = f"{local_cluster.zookeeper}{path}"
    await create_chroot(hosts)
    yield path
    await delete_chroot(hosts)


@pytest.fixture
def make_site(
    local_cluster: LocalCluster, chroot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SiteMaker:
    """Writes a nodepool.yaml with the labels that the test gives."""
    monkeypatch.setenv("KUBECONFIG", str(local_cluster.kubeconfig))
    return SiteMaker(local_cluster, chroot, tmp_path)


@pytest.fixture
async def zuul(local_cluster: LocalCluster, chroot: str) -> AsyncIterator[Zuul]:
    """A requestor, connected."""
    async with Zuul.connected(f"{local_cluster.zookeeper}{chroot}") as zuul:
        yield zuul


@pytest.fixture
async def launchers(
    zuul: Zuul, admin: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Launchers]:
    """Starts launchers; at the end they must have left nothing behind."""
    launchers = Launchers(zuul, admin, tmp_path, monkeypatch)
    try:
        yield launchers
        await launchers.leave_nothing()
    finally:
        await launchers.end()
