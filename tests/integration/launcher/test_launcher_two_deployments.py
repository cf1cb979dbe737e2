"""Two sites, each with a ZooKeeper of its own, share a cluster and know nothing of each other."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import LocalCluster
from harness.zookeeper import create_chroot, delete_chroot

from nodepool_k8s.launcher.intervals import Intervals
from tests.support.admin import Admin, running
from tests.support.launchers import Launchers, RunningLauncher
from tests.support.site import Site, SiteMaker, manual_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

QUICK = Intervals(upkeep=0.2)
QUICK_SESSION = {"zookeeper-timeout": 4}


@dataclass(frozen=True)
class Deployment:
    """A site with its requestor. All name their provider ``local``, and each its pool itself."""

    make_site: SiteMaker
    zuul: Zuul
    launchers: Launchers

    @property
    def site(self) -> Site:
        return self.make_site(pod_label(), manual_label("slow"), top=QUICK_SESSION)


@pytest.fixture
async def ours(make_site: SiteMaker, zuul: Zuul, launchers: Launchers) -> Deployment:
    return Deployment(make_site, zuul, launchers)


@pytest.fixture
async def theirs(
    local_cluster: LocalCluster,
    admin: Admin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_site: SiteMaker,
) -> AsyncIterator[Deployment]:
    del make_site  # It names the cluster in the environment.
    folder = tmp_path / "theirs"
    folder.mkdir()
    chroot = f"/test-{uuid.uuid4().hex}"
    hosts = f"{local_cluster.zookeeper}{chroot}"
    await create_chroot(hosts)
    async with Zuul.connected(hosts) as zuul:
        launchers = Launchers(zuul, admin, folder, monkeypatch)
        try:
            yield Deployment(SiteMaker(local_cluster, chroot, folder), zuul, launchers)
            await launchers.leave_nothing()
        finally:
            await launchers.end()
    await delete_chroot(hosts)


async def pods_of(deployment: Deployment, admin: Admin) -> dict[str, str]:
    """The UID of each node's pod."""
    found = {}
    for node_id in await deployment.zuul.nodes():
        namespace = deployment.make_site.namespace(node_id)
        pod = await admin.pod(namespace, await label(deployment, node_id))
        assert pod is not None, f"the pod of node {node_id} is gone"
        assert "deletionTimestamp" not in pod["metadata"]
        found[node_id] = pod["metadata"]["uid"]
    return found


async def slow_pod(deployment: Deployment, admin: Admin, node_id: str) -> str:
    """Wait until a slow node has its pod; the namespace that it is in."""
    namespace = deployment.make_site.namespace(node_id)
    await eventually(lambda: admin.pod(namespace, "slow"), "a slow pod")
    return namespace


async def label(deployment: Deployment, node_id: str) -> str:
    node = await deployment.zuul.node(node_id)
    assert node is not None
    return str(node["type"][0])


async def passes(launcher: RunningLauncher, number: int) -> None:
    """Let upkeep go over everything so many times more."""
    scope = launcher.launcher.scope
    assert scope is not None
    for _ in range(number):
        await scope.upkeep.step()
        for driver in launcher.launcher.providers.open:
            await scope.provider_upkeep.step_for(driver)


async def test_a_killed_launcher_leaves_another_deployment_alone(
    ours: Deployment, theirs: Deployment, admin: Admin
) -> None:
    """With the same provider's name, and the same node ids; while launching, using and waiting."""
    ours_site, theirs_site = ours.site, theirs.site
    killed = await ours.launchers.spawn(ours_site)
    survivor = await theirs.launchers.start(theirs_site, QUICK)
    locks, requests = {}, {}
    for deployment in (ours, theirs):
        used = await deployment.zuul.submit("pod")
        await deployment.zuul.answered(used)
        locks[deployment.site.chroot] = await deployment.zuul.accept(used)
    for deployment in (ours, theirs):
        ready = await deployment.zuul.submit("pod")
        await deployment.zuul.answered(ready)
        slow = await deployment.zuul.submit("slow")
        (node_id,) = await deployment.zuul.building(slow)
        await slow_pod(deployment, admin, node_id)
        requests[deployment.site.chroot] = ready, slow, node_id
    ids = [sorted(await deployment.zuul.nodes()) for deployment in (ours, theirs)]
    assert ids[0] == ids[1]
    before = await pods_of(theirs, admin)
    kept = await pods_of(ours, admin)

    await killed.kill()
    await passes(survivor, 3)
    assert await pods_of(theirs, admin) == before
    assert await pods_of(ours, admin) == kept

    # Upkeep goes over everything as it starts.
    await ours.launchers.spawn(ours_site)
    _, our_slow, lost = requests[ours.site.chroot]
    await ours.zuul.gone(lost)
    (anew,) = await ours.zuul.building(our_slow)
    await passes(survivor, 3)
    assert await pods_of(theirs, admin) == before
    await slow_pod(ours, admin, anew)
    after = await pods_of(ours, admin)
    del kept[lost], after[anew]
    assert after == kept

    for deployment, node_id in ((ours, anew), (theirs, requests[theirs.site.chroot][2])):
        ready, slow, _ = requests[deployment.site.chroot]
        namespace = await slow_pod(deployment, admin, node_id)
        await admin.set_status(namespace, running(ready=True), "slow")
        await deployment.zuul.use_and_return(ready)
        await deployment.zuul.use_and_return(slow)
        await deployment.zuul.give_back(locks[deployment.site.chroot])
