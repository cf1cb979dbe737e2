"""kill -9 at any moment: the next launcher leaves nothing behind, and loses no request."""

import time
import uuid

import pytest
from harness.requestor import NODES, REQUEST_LOCKS, zuul_request
from harness.zookeeper import Record

from tests.support.admin import DEPLOYMENT, Admin, running
from tests.support.launchers import Launchers
from tests.support.site import SiteMaker, manual_label, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

QUICK_SESSION = {"zookeeper-timeout": 4}
"""ZooKeeper's least; a dead launcher's locks are free that soon."""


def a_node(pool: str, **keys: object) -> Record:
    """A node's record as a launcher of ours writes it."""
    return {
        "state": "building",
        "state_time": time.time(),
        "created_time": time.time(),
        "type": ["pod"],
        "provider": "local",
        "pool": pool,
        "allocated_to": None,
        "external_id": None,
        "resources": {"cores": 0, "ram": 0, "instances": 1},
        "driver_data": {"nodepool_k8s": {"type": "pod", "claimed": {"instances": 1000}}},
        **keys,
    }


async def pod_of(admin: Admin, namespace: str) -> None:
    await eventually(lambda: admin.pod(namespace), f"the pod of {namespace}")


async def test_kill_during_a_launch(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(manual_label(), pool={"max-servers": 2}, top=QUICK_SESSION)
    first = await launchers.spawn(site)
    request_id = await zuul.submit("pod", "pod")
    old = await zuul.building(request_id, count=2)
    for node_id in old:
        await pod_of(admin, make_site.namespace(node_id))
    await first.kill()

    await launchers.start(site)
    await zuul.gone(*old)
    new = await zuul.building(request_id, count=2)
    for node_id in new:
        assert not (set(old) & set(new))
        namespace = make_site.namespace(node_id)
        await pod_of(admin, namespace)
        await admin.set_status(namespace, running(ready=True))
    request = await zuul.answered(request_id)
    assert sorted(request["nodes"]) == new


async def test_kill_during_a_deletion(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(namespace_label(), top=QUICK_SESSION)
    first = await launchers.spawn(site)
    request_id = await zuul.submit("namespace")
    (node_id,) = (await zuul.answered(request_id))["nodes"]
    await zuul.give_back(await zuul.accept(request_id))

    async def begun() -> bool:
        node = await zuul.node(node_id)
        return node is not None and node["state"] == "deleting"

    await eventually(begun, "its deletion begun")
    await first.kill()
    await launchers.start(site)
    await zuul.gone(node_id)


async def test_kill_under_load_loses_no_request(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), pool={"max-servers": 6}, top=QUICK_SESSION)
    first = await launchers.spawn(site)
    ids = [await zuul.submit("pod") for _ in range(12)]
    await zuul.answered(ids[0], "pending", "fulfilled")
    await first.kill()
    await launchers.start(site)
    for request_id in ids:
        await zuul.use_and_return(request_id)
    await zuul.drop_drafts()


async def test_an_unlocked_building_node_is_removed(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(pod_label())
    # The deployment's UUID is made by the first launcher.
    running_launcher = await launchers.start(site)
    deployment = await zuul.deployment()
    await running_launcher.stop()
    path = await zuul.create(f"{NODES}/", a_node(make_site.pool), sequence=True)
    node_id = path.rpartition("/")[2]
    namespace = make_site.namespace(node_id)
    await zuul.put(path, a_node(make_site.pool, external_id=namespace))
    await admin.create_namespace(namespace, {DEPLOYMENT: deployment, "nodepool_node_id": node_id})
    await launchers.start(site)
    await zuul.gone(node_id)
    assert not await admin.namespaces(deployment)


async def test_namespaces_without_a_record_are_deleted(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(pod_label())
    first = await launchers.start(site)
    deployment = await zuul.deployment()
    await first.stop()
    leaked = make_site.namespace("0000000042")
    others = make_site.namespace("0000000043")
    unrelated = make_site.namespace("0000000044")
    await admin.create_namespace(leaked, {DEPLOYMENT: deployment, "nodepool_node_id": "0000000042"})
    await admin.create_namespace(
        others, {DEPLOYMENT: str(uuid.uuid4()), "nodepool_node_id": "0000000043"}
    )
    await admin.create_namespace(unrelated, {"nodepool_node_id": "0000000044"})
    try:
        await launchers.start(site)

        async def none_of_ours() -> bool:
            return not await admin.namespaces(deployment)

        await eventually(none_of_ours, "the leaked namespace on its way out")
        await zuul.use_and_return(await zuul.submit("pod"))
        for name in (others, unrelated):
            namespace = await admin.namespace(name)
            assert namespace is not None
            assert "deletionTimestamp" not in namespace["metadata"]
    finally:
        for name in (others, unrelated):
            await admin.delete_namespace(name)


async def test_a_node_in_use_survives_a_restart(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(pod_label(), pool={"max-servers": 2}, top=QUICK_SESSION)
    first = await launchers.spawn(site)
    used, ready = [await zuul.submit("pod") for _ in range(2)]
    await zuul.answered(used)
    await zuul.answered(ready)
    locks = await zuul.accept(used)
    await first.kill()
    await launchers.start(site)
    # Both are what they were: one in use, the other waiting to be accepted.
    await zuul.use_and_return(ready)
    (node_id,) = locks
    assert await admin.pod(make_site.namespace(node_id)) is not None
    await zuul.give_back(locks)
    await zuul.gone(node_id)


async def test_a_pending_request_that_nobody_holds_is_served(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    left = await zuul.submit_raw(zuul_request(["pod"], state="pending"))
    await zuul.create(f"{REQUEST_LOCKS}/{left}", b"")  # An old lock's parent, empty.
    await launchers.start(make_site(pod_label()))
    await zuul.use_and_return(left)


async def test_a_ready_node_of_a_dead_launcher_delays_no_request(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    """It had taken that one, of two, and died with the request: there is no room for two more."""
    site = make_site(pod_label(), pool={"max-servers": 2})
    first = await launchers.start(site)
    (node_id,) = (await zuul.answered(await zuul.submit("pod")))["nodes"]
    await first.stop()
    await zuul.cancel((await zuul.node(node_id) or {})["allocated_to"])
    left = await zuul.submit_raw(zuul_request(["pod", "pod"], state="pending"))
    await zuul.set_node(node_id, allocated_to=left)
    await launchers.start(site)
    assert node_id in (await zuul.answered(left))["nodes"]
    await zuul.use_and_return(left)


async def test_a_pending_request_held_elsewhere_is_left_alone(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    held = await zuul.submit_raw(zuul_request(["pod"], state="pending"))
    lock = await zuul.lock(f"{REQUEST_LOCKS}/{held}")
    await launchers.start(make_site(pod_label()))
    await zuul.use_and_return(await zuul.submit("pod"))
    request = await zuul.request(held)
    assert request is not None
    assert request["state"] == "pending"
    await zuul.unlock(lock)  # It died; what it had taken is anybody's.
    await zuul.use_and_return(held)


async def test_an_old_draft_goes_and_a_young_one_stays(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    draft = {"state": "init", "driver_data": {"nodepool_k8s": {"type": "pod"}}}
    old, young = [
        await zuul.create(
            f"{NODES}/",
            a_node(make_site.pool, **draft, state_time=time.time() - age),
            sequence=True,
        )
        for age in (61, 30)
    ]
    await launchers.start(make_site(pod_label()))
    await zuul.gone(old.rpartition("/")[2])
    assert await zuul.get(young) is not None
    await zuul.delete(young)


async def test_a_drifted_ledger_is_corrected_at_start(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), pool={"max-servers": 2})
    first = await launchers.start(site)
    await zuul.use_and_return(await zuul.submit("pod"))
    await launchers.return_nodes()
    await first.stop()
    path = f"/nodepool-k8s/ledger/local/{make_site.pool}"
    await zuul.put(path, {"claimed": {"instances": 2000}})
    await launchers.start(site)
    await zuul.use_and_return(await zuul.submit("pod"))


async def test_a_record_removed_by_hand_gives_its_namespace_back(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(pod_label(), pool={"max-servers": 1})
    first = await launchers.start(site)
    request_id = await zuul.submit("pod")
    (node_id,) = (await zuul.answered(request_id))["nodes"]
    await first.stop()
    await zuul.delete(f"{NODES}/{node_id}/lock")
    await zuul.delete(f"{NODES}/{node_id}")
    await zuul.cancel(request_id)
    await launchers.start(site)
    await zuul.use_and_return(await zuul.submit("pod"))
    assert not await admin.pod(make_site.namespace(node_id))


# --- SIGTERM ----------------------------------------------------------------------------------


async def test_sigterm_gives_back_what_is_in_flight(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(pod_label(), manual_label("slow"))
    launcher = await launchers.spawn(site, "--drain-timeout", "6")
    done = await zuul.submit("pod")
    await zuul.answered(done)
    locks = await zuul.accept(done)
    in_flight = await zuul.submit("slow", "slow")
    await zuul.building(in_flight, 2)
    assert await launcher.terminate() == 0
    request = await zuul.request(in_flight)
    assert request is not None
    assert request["state"] == "requested"
    assert not request["declined_by"]
    # Nothing is left but what is in use.
    assert list(await zuul.nodes()) == list(locks)
    assert len(await zuul.held_locks()) == len(locks)
    assert not await zuul.components()
    names = [entry["metadata"]["name"] for entry in await admin.namespaces(await zuul.deployment())]
    assert names == [make_site.namespace(node_id) for node_id in locks]

    await launchers.start(make_site(pod_label(), pod_label("slow")))
    await zuul.use_and_return(in_flight)
    await zuul.give_back(locks)


async def test_an_idle_launcher_ends_at_once(make_site: SiteMaker, launchers: Launchers) -> None:
    launcher = await launchers.spawn(make_site(pod_label()))
    assert await launcher.terminate() == 0
    assert "Traceback" not in launcher.text()
