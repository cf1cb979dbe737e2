"""Ready nodes: kept, handed out, never dead ones, not for ever; and what comes back reclaimed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from harness.requestor import NODES

from nodepool_k8s.launcher import min_ready
from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import Options, Site, SiteMaker, manual_label, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

LONG = 3600
"""Seconds: nothing here lives that long."""


def top(name: str = "pod", **options: Any) -> Options:
    """The top-level labels section with one label."""
    return {"labels": [{"name": name, **{k.replace("_", "-"): v for k, v in options.items()}}]}


async def free_nodes(zuul: Zuul) -> dict[str, Any]:
    return {
        name: node
        for name, node in (await zuul.nodes()).items()
        if node["state"] == "ready" and node["allocated_to"] is None
    }


async def free(zuul: Zuul, number: int) -> dict[str, Any]:
    """Wait until so many ready nodes are nobody's, and no others are there; the nodes."""

    async def check() -> dict[str, Any] | bool:
        found = await free_nodes(zuul)
        assert len(found) == number, found.keys()
        assert len(await zuul.children(NODES)) == number
        return found or True

    found = await eventually(check, f"{number} ready nodes")
    return found if isinstance(found, dict) else {}


async def leave_a_ready_node(zuul: Zuul, *labels: str) -> str:
    """A node that was made for a request that went; its id."""
    request_id = await zuul.submit(*labels or ("pod",))
    node_id = (await zuul.answered(request_id))["nodes"][0]
    await zuul.cancel(request_id)
    await free(zuul, 1)
    return str(node_id)


async def stop_asking(zuul: Zuul, site: Site, launchers: Launchers) -> None:
    """Let the launchers go, and remove what they kept ready, with one that keeps nothing."""
    await launchers.stop_all()
    text = site.path.read_text()
    for number in range(1, 9):
        text = text.replace(f"min-ready: {number}\n", "min-ready: 0\n")
    site.path.write_text(text)
    await launchers.start(site)


# --- min-ready --------------------------------------------------------------------------------


async def test_min_ready_nodes_are_there_without_a_request(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(pod_label(), top=top(min_ready=2))
    await launchers.start(site)
    nodes = await free(zuul, 2)
    for node in nodes.values():
        assert node["tenant_name"] is None
        # Idle: an autoscaler may take it away.
        (pod,) = await admin.pods(node["external_id"])
        assert "karpenter.sh/do-not-disrupt" not in pod["metadata"].get("annotations", {})
    await eventually(lambda: _no_requests(zuul), "no request is left")
    await stop_asking(zuul, site, launchers)


async def _no_requests(zuul: Zuul) -> bool:
    return not await zuul.children("/nodepool/requests")


async def test_min_ready_is_asked_for_once_however_many_launchers_run(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), top=top(min_ready=3))
    submitted: set[str] = set()

    def see(names: list[str]) -> None:
        submitted.update(name for name in names if name.startswith("900-"))

    zuul.kazoo.ChildrenWatch("/nodepool/requests", see)
    await asyncio.gather(*(launchers.start(site) for _ in range(3)))
    await free(zuul, 3)
    await eventually(lambda: _no_requests(zuul), "no request is left")
    assert len(submitted) == 3
    await stop_asking(zuul, site, launchers)


async def test_when_the_launcher_that_asks_dies_another_takes_over(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), top={**top(min_ready=1), "zookeeper-timeout": 4.0})
    first = await launchers.spawn(site)
    await free(zuul, 1)
    await launchers.start(site)
    await first.kill()
    (node_id,) = await free_nodes(zuul)
    request_id = await zuul.submit("pod")
    assert (await zuul.answered(request_id))["nodes"] == [node_id]
    locks = await zuul.accept(request_id)

    async def refilled() -> bool:
        return len(await free_nodes(zuul)) == 1

    await eventually(refilled, "the spare node replaced")
    await zuul.give_back(locks)
    await stop_asking(zuul, site, launchers)


async def test_spare_requests_are_deleted_without_min_ready(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(manual_label(), top=top(min_ready=1))
    await launchers.start(site)
    (request_id,) = await eventually(lambda: zuul.children("/nodepool/requests"), "asked for")
    (node_id,) = await zuul.building(request_id)
    await eventually(lambda: admin.pod(make_site.namespace(node_id)), "its pod")
    site.become(make_site(manual_label(), pod_label("more")))

    async def taken_up() -> bool:
        return any("more" in each["supported_labels"] for each in await zuul.components())

    await eventually(taken_up, "the changed configuration")
    await admin.make_ready(make_site.namespace(node_id))
    await eventually(lambda: _no_requests(zuul), "no request is left")


async def test_a_spare_node_that_was_taken_is_replaced_at_once(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), top=top(min_ready=1))
    await launchers.start(site)
    (spare,) = await free(zuul, 1)
    request_id = await zuul.submit("pod")
    assert (await zuul.answered(request_id))["nodes"] == [spare]
    locks = await zuul.accept(request_id)

    async def replaced() -> bool:
        return len(await free_nodes(zuul)) == 1

    await eventually(replaced, "another spare node")
    await zuul.give_back(locks)
    await zuul.gone(spare)
    await stop_asking(zuul, site, launchers)


async def test_spare_nodes_wait_for_no_quota_and_hold_nobody_up(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(min_ready, "FIRST_RETRY_SECONDS", 0.2)
    site = make_site(pod_label(), pool={"max-servers": 1}, top=top(min_ready=1))
    await launchers.start(site)
    await free(zuul, 1)
    request_id = await zuul.submit("pod")
    await zuul.answered(request_id)
    locks = await zuul.accept(request_id)
    (component,) = await zuul.components()
    assert component["paused"] is False
    await zuul.give_back(locks)
    await free(zuul, 1)  # There is room again, and it is used.
    await stop_asking(zuul, site, launchers)


# --- reuse ------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [pod_label("pod"), namespace_label("pod")], ids=["pod", "ns"])
async def test_a_reused_ready_node_has_the_records_of_its_request(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, label: Options
) -> None:
    label = {**label, "dynamic-labels": {"job": "{request.requestor_data[job_name]}"}}
    await launchers.start(make_site(label))
    ready = await leave_a_ready_node(zuul)
    data = {"job_name": "another-job"}
    request_id = await zuul.submit("pod", tenant_name="tenant-two", requestor_data=data)
    assert (await zuul.answered(request_id))["nodes"] == [ready]
    node = await zuul.node(ready)
    assert node is not None
    assert (node["state"], node["allocated_to"]) == ("ready", request_id)
    assert (node["tenant_name"], node["requestor"]) == ("tenant-two", "zuul system")
    assert node["connection_port"]["token"]
    namespace = await admin.namespace(node["external_id"])
    assert namespace is not None
    assert namespace["metadata"]["labels"]["job"] == "another-job"
    for pod in await admin.pods(node["external_id"]):
        assert pod["metadata"]["labels"]["job"] == "another-job"
        assert pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    assert not await zuul.held_locks()


async def test_a_burst_gets_every_ready_node_once(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), top=top(min_ready=4))
    await launchers.start(site)
    await launchers.start(site)
    ready = set(await free(zuul, 4))
    requests = [await zuul.submit("pod") for _ in range(8)]
    answers = [await zuul.answered(request_id) for request_id in requests]
    given = [node_id for answer in answers for node_id in answer["nodes"]]
    assert len(given) == len(set(given)) == 8
    assert ready <= set(given)
    for request_id in requests:
        await zuul.use_and_return(request_id)
    await stop_asking(zuul, site, launchers)


async def test_a_reused_node_gets_a_fresh_token(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label()))
    ready = await leave_a_ready_node(zuul)
    node = await zuul.node(ready)
    assert node is not None
    times = {"token_issued": time.time() - 600, "token_expires": time.time() + 60}
    own = {**node["driver_data"]["nodepool_k8s"], **times}
    await zuul.set_node(ready, driver_data={"nodepool_k8s": own}, state_time=node["state_time"])
    request_id = await zuul.submit("pod")
    await zuul.answered(request_id)
    after = await zuul.node(ready)
    assert after is not None
    assert after["connection_port"]["token"] != node["connection_port"]["token"]
    assert after["ssh_port"] == after["connection_port"]
    assert after["driver_data"]["nodepool_k8s"]["token_expires"] > time.time() + 24 * 3600


# --- dead ones --------------------------------------------------------------------------------

LOST = {"conditions": [{"type": "Ready", "status": "False", "reason": "NodeLost"}]}
EVICTED = {"phase": "Failed", "reason": "Evicted"}


@pytest.mark.parametrize("end", ["deleted", "evicted", "lost", "namespace"])
async def test_a_ready_node_whose_pod_is_lost_is_never_handed_out(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, end: str
) -> None:
    await launchers.start(make_site(manual_label()))
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    node = await zuul.node(node_id)
    assert node is not None
    namespace = node["external_id"]
    await eventually(lambda: admin.pod(namespace), "the pod")
    await admin.make_ready(namespace)
    await zuul.answered(request_id)
    await zuul.cancel(request_id)
    await free(zuul, 1)
    match end:
        case "deleted":
            await admin.delete_pod(namespace)
        case "evicted":
            await admin.set_status(namespace, EVICTED)
        case "lost":
            await admin.set_status(namespace, LOST)
        case "namespace":
            await admin.delete_namespace(namespace)
    second = await zuul.submit("pod")
    (other,) = await zuul.building(second)
    assert other != node_id
    await zuul.gone(node_id)


async def test_a_ready_node_that_died_unobserved_is_removed(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(pod_label())
    running = await launchers.start(site)
    ready = await leave_a_ready_node(zuul)
    await running.stop()
    node = await zuul.node(ready)
    assert node is not None
    await admin.set_status(node["external_id"], EVICTED)
    await launchers.start(site)
    await zuul.gone(ready)


# --- ages -------------------------------------------------------------------------------------


async def test_only_ready_nodes_are_deleted_at_max_ready_age(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), top=top(max_ready_age=2)))
    used = await zuul.submit("pod")
    await zuul.answered(used)
    locks = await zuul.accept(used)
    ready = await zuul.submit("pod")
    (node_id,) = (await zuul.answered(ready))["nodes"]
    await zuul.cancel(ready)
    await zuul.gone(node_id)
    for node in locks:
        assert (await zuul.node(node) or {})["state"] == "in-use"
    await zuul.give_back(locks)


async def hold(zuul: Zuul, **changes: Any) -> str:
    """A node that somebody keeps after using it."""
    request_id = await zuul.submit("pod")
    await zuul.answered(request_id)
    locks = await zuul.accept(request_id)
    for node_id, lock in locks.items():
        await zuul.set_node(node_id, state="hold", **changes)
        await zuul.unlock(lock)
    return next(iter(locks))


async def test_a_held_node_goes_at_its_hold_expiration(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label()))
    kept = await hold(zuul)
    await zuul.gone(await hold(zuul, hold_expiration=1))
    assert (await zuul.node(kept) or {})["state"] == "hold"
    await zuul.set_node(kept, state="used")


async def test_a_held_node_goes_at_max_hold_age_if_that_is_sooner(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), top={"max-hold-age": 1}))
    await zuul.gone(await hold(zuul, hold_expiration=LONG))
    await zuul.gone(await hold(zuul))


# --- what comes back --------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["in-use", "used"])
async def test_an_unlocked_node_that_was_used_is_reclaimed(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, state: str
) -> None:
    await launchers.start(make_site(pod_label()))
    request_id = await zuul.submit("pod")
    await zuul.answered(request_id)
    locks = await zuul.accept(request_id)
    for node_id, lock in locks.items():
        await zuul.set_node(node_id, state=state)
        assert await zuul.node(node_id) is not None
        await zuul.unlock(lock)
    await zuul.gone(*locks)


async def test_a_node_of_a_vanished_request_serves_the_next(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), pod_label("other")))
    first = await zuul.submit("pod", "other")
    nodes = (await zuul.answered(first))["nodes"]
    await zuul.cancel(first)
    await free(zuul, 2)
    second = await zuul.submit("other", "pod")
    assert (await zuul.answered(second))["nodes"] == nodes[::-1]


# --- room -------------------------------------------------------------------------------------


async def test_at_quota_only_one_unused_ready_node_is_removed(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), manual_label("other"), pool={"max-servers": 3})
    await launchers.start(site)
    await launchers.start(site)
    requests = [await zuul.submit("pod") for _ in range(3)]
    nodes = [(await zuul.answered(request_id))["nodes"][0] for request_id in requests]
    for request_id in requests:
        await zuul.cancel(request_id)
    await free(zuul, 3)
    request_id = await zuul.submit("other")
    await zuul.building(request_id)
    left = set(await zuul.children(NODES)) & set(nodes)
    assert len(left) == 2
    assert set(await free_nodes(zuul)) == left
