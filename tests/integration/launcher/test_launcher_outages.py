"""ZooKeeper and the API server go and come back; sessions expire: the launcher goes on."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cluster import LocalCluster, sources
from harness.requestor import POOLS, REQUEST_LOCKS
from kazoo.client import KazooClient

from nodepool_k8s.errors import NodepoolK8sError
from nodepool_k8s.zookeeper.operations import Create
from tests.support.admin import Admin
from tests.support.launchers import Launchers, RunningLauncher
from tests.support.site import SiteMaker, manual_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

QUICK_SESSION = {"zookeeper-timeout": 4}


@pytest.fixture
def stoppable(fake_cluster: LocalCluster) -> LocalCluster:
    """A cluster whose processes are this run's own to stop."""
    if sources.named_by_environment(os.environ, Path("nowhere")):
        pytest.skip("not run: the cluster that the environment names is not ours to stop")
    return fake_cluster


@contextmanager
def stopped(cluster: LocalCluster, service: str) -> Iterator[None]:
    """A process of the cluster is away for the length of the block."""
    cluster.stop(service)
    try:
        yield
    finally:
        cluster.start(service)


async def expire(launcher: RunningLauncher, zuul: Zuul) -> None:
    """End the launcher's ZooKeeper session, as somebody who has its id and password can."""
    kazoo = launcher.kazoo
    twin = KazooClient(hosts=zuul.hosts, client_id=kazoo.client_id, timeout=4)

    def end() -> None:
        twin.start()
        twin.stop()
        twin.close()

    await asyncio.to_thread(end)


async def components(zuul: Zuul) -> list[str]:
    return await zuul.children(POOLS)


async def registered_anew(zuul: Zuul, before: list[str]) -> None:
    async def check() -> bool:
        now = await components(zuul)
        return bool(now) and now != before

    await eventually(check, "the pool registered anew")


async def test_an_expired_session_is_followed_by_another(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    launcher = await launchers.start(make_site(pod_label(), top=QUICK_SESSION))
    for _ in range(3):
        await zuul.use_and_return(await zuul.submit("pod"))
        before = await components(zuul)
        await expire(launcher, zuul)
        await registered_anew(zuul, before)
    await zuul.use_and_return(await zuul.submit("pod"))


async def test_a_session_that_ends_during_a_launch_leaks_nothing(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(manual_label(), pool={"max-servers": 1}, top=QUICK_SESSION)
    launcher = await launchers.start(site)
    request_id = await zuul.submit("pod")
    (old,) = await zuul.building(request_id)
    await eventually(lambda: admin.pod(make_site.namespace(old)), "its pod")
    await expire(launcher, zuul)
    await zuul.gone(old)
    (new,) = await zuul.building(request_id)
    await eventually(lambda: admin.pod(make_site.namespace(new)), "its pod")
    await admin.make_ready(make_site.namespace(new))
    request = await zuul.answered(request_id)
    assert request["nodes"] == [new]


async def test_sessions_that_expire_under_load_lose_no_request(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), pool={"max-servers": 5}, top=QUICK_SESSION)
    launcher = await launchers.start(site)
    ids = [await zuul.submit("pod") for _ in range(15)]
    for request_id in ids[:3]:
        await zuul.use_and_return(request_id)
        before = await components(zuul)
        await expire(launcher, zuul)
        await registered_anew(zuul, before)
    for request_id in ids[3:]:
        await zuul.use_and_return(request_id)
    await zuul.drop_drafts()


async def test_what_slips_into_the_next_session_is_undone(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    launcher = await launchers.start(make_site(pod_label(), top=QUICK_SESSION))
    before = await components(zuul)
    path = f"{REQUEST_LOCKS}/200-0000000099/x__lock__0000000000"
    await zuul.create(f"{REQUEST_LOCKS}/200-0000000099", b"")
    client = launcher.clients[0]
    await expire(launcher, zuul)
    await client.session.ended()
    # kazoo is about to connect anew: what is asked of it now, as a dying task does, is done then.
    with suppress(NodepoolK8sError):
        await client.transaction([Create(path, ephemeral=True)])
    await registered_anew(zuul, before)
    assert not await zuul.held_locks()


async def test_no_request_fails_before_every_pool_is_registered(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    pools = [
        {"name": f"{make_site.pool}-{name}", "labels": [pod_label(name)], "max-servers": 1}
        for name in ("one", "two", "three")
    ]
    site = make_site.of([{"name": "local", "pools": pools}], QUICK_SESSION)
    launcher = await launchers.start(site)
    first = await zuul.submit("three")
    await zuul.answered(first)
    waiting = await zuul.submit("three")
    for _ in range(4):
        before = await components(zuul)
        await expire(launcher, zuul)
        await registered_anew(zuul, before)
        await zuul.use_and_return(await zuul.submit("one"))
    request = await zuul.request(waiting)
    assert request is not None
    assert request["state"] == "requested", request
    await zuul.use_and_return(first)
    await zuul.use_and_return(waiting)


async def test_a_dropped_connection_under_load_loses_nothing(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    launcher = await launchers.start(make_site(pod_label(), pool={"max-servers": 5}))
    before = await components(zuul)
    ids = [await zuul.submit("pod") for _ in range(15)]
    for number, request_id in enumerate(ids):
        if number % 3 == 0:
            launcher.drop_connection()
        await zuul.use_and_return(request_id)
    # The session outlived it all.
    assert await components(zuul) == before
    await zuul.drop_drafts()


async def test_zookeeper_restarted_is_found_again(
    make_site: SiteMaker, launchers: Launchers, stoppable: LocalCluster, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(manual_label(), pod_label("quick"))
    await launchers.start(site)
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    await eventually(lambda: admin.pod(make_site.namespace(node_id)), "its pod")
    with stopped(stoppable, "zookeeper"):
        # It becomes ready while nobody can be told.
        await admin.make_ready(make_site.namespace(node_id))
    request = await zuul.answered(request_id)
    assert request["nodes"] == [node_id]
    await zuul.use_and_return(request_id)
    await zuul.use_and_return(await zuul.submit("quick"))


async def test_nodes_in_use_survive_a_restart_of_zookeeper(
    make_site: SiteMaker, launchers: Launchers, stoppable: LocalCluster, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(pod_label())
    await launchers.start(site)
    request_id = await zuul.submit("pod")
    await zuul.answered(request_id)
    locks = await zuul.accept(request_id)
    with stopped(stoppable, "zookeeper"):
        pass
    await zuul.use_and_return(await zuul.submit("pod"))
    (node_id,) = locks
    assert await admin.pod(make_site.namespace(node_id)) is not None
    await zuul.give_back(locks)
    await zuul.gone(node_id)


async def connected(launcher: RunningLauncher, times: int) -> None:
    await eventually(lambda: launcher.connections >= times, "connected")


@pytest.mark.parametrize("drops", range(1, 5))
async def test_connections_that_drop_while_it_starts_only_delay_it(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, drops: int
) -> None:
    early = [await zuul.submit("pod") for _ in range(3)]
    launcher = launchers.start_unready(make_site(pod_label()))
    for number in range(drops):
        await connected(launcher, number + 1)
        launcher.drop_connection()
    await launcher.ready()
    for request_id in [*early, await zuul.submit("pod")]:
        await zuul.use_and_return(request_id)
    assert len(await components(zuul)) == 1
    await zuul.drop_drafts()


async def test_an_api_server_restarted_is_found_again(
    make_site: SiteMaker, launchers: Launchers, stoppable: LocalCluster, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(manual_label(), pod_label("quick"))
    await launchers.start(site)
    used = await zuul.submit("quick")
    await zuul.answered(used)
    waiting = await zuul.submit("pod")
    (node_id,) = await zuul.building(waiting)
    await eventually(lambda: admin.pod(make_site.namespace(node_id)), "its pod")
    with stopped(stoppable, "kube-apiserver"):
        await zuul.give_back(await zuul.accept(used))
        during = await zuul.submit("quick")
        await zuul.answered(during, "pending")
    await admin.make_ready(make_site.namespace(node_id))
    await zuul.answered(waiting)
    # Asked for while it was away: fulfilled, or refused after its attempts.
    await zuul.answered(during, "fulfilled", "failed")
    await zuul.use_and_return(await zuul.submit("quick"))


async def test_a_launcher_may_start_before_its_cluster(
    make_site: SiteMaker, launchers: Launchers, stoppable: LocalCluster, zuul: Zuul
) -> None:
    site = make_site(pod_label())
    with stopped(stoppable, "kube-apiserver"):
        await launchers.start(site)
        request_id = await zuul.submit("pod")
        await zuul.submit("nonesuch")
    await zuul.use_and_return(request_id)
