"""A request may vanish at any moment: nothing but free ready nodes is left of it."""

import pytest
from harness.requestor import NODES, REQUEST_LOCKS, REQUESTS

from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import SiteMaker, manual_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration


async def all_gone(zuul: Zuul, admin: Admin) -> None:
    """No node, no lock of the request, no namespace."""

    async def check() -> bool:
        return not (await zuul.children(NODES) or await zuul.children(REQUEST_LOCKS))

    await eventually(check, "nodes and locks gone")
    deployment = await zuul.deployment()

    async def no_namespace() -> bool:
        return not await admin.namespaces(deployment)

    await eventually(no_namespace, "namespaces gone")


async def only_free_nodes_left(zuul: Zuul, admin: Admin) -> int:
    """No lock, and no node but ready ones that are nobody's; how many."""

    async def check() -> bool:
        nodes = (await zuul.nodes()).values()
        free = [node["state"] == "ready" and node["allocated_to"] is None for node in nodes]
        return all(free) and not await zuul.held_locks() and not await zuul.children(REQUEST_LOCKS)

    await eventually(check, "nodes free and locks gone")
    deployment = await zuul.deployment()

    async def theirs() -> bool:
        names = {node["external_id"] for node in (await zuul.nodes()).values()}
        found = await admin.namespaces(deployment)
        return {entry["metadata"]["name"] for entry in found} == names

    await eventually(theirs, "no namespace but theirs")
    ledgers = {pool: claimed for pool, claimed in (await zuul.ledgers()).items() if claimed}
    assert ledgers == await zuul.sums()
    return len(await zuul.nodes())


async def test_before_it_is_claimed(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(pod_label()))
    for _ in range(20):
        await zuul.cancel(await zuul.submit("pod"))
    await only_free_nodes_left(zuul, admin)


async def test_while_it_waits_for_quota(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(pod_label(), pool={"max-servers": 1}))
    first, second, third = [await zuul.submit("pod") for _ in range(3)]
    await zuul.answered(first)
    await zuul.cancel(second)
    await zuul.use_and_return(first)
    await zuul.use_and_return(third)
    await all_gone(zuul, admin)


async def test_while_its_nodes_are_being_built(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(manual_label(), pod_label("quick")))
    request_id = await zuul.submit("pod", "quick", "pod")

    async def one_is_ready() -> bool:
        return sorted((await zuul.states()).values()) == ["building", "building", "ready"]

    await eventually(one_is_ready, "the quick one is ready")
    await zuul.cancel(request_id)
    assert await only_free_nodes_left(zuul, admin) == 1


@pytest.mark.parametrize("state", ["pending", "fulfilled"])
async def test_right_when_it_changes(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, state: str
) -> None:
    await launchers.start(make_site(pod_label(), pod_label("other-pod")))
    for labels in (["pod"], ["pod", "other-pod"]):
        await withdraw_when(zuul, await zuul.submit(*labels), state)
    await only_free_nodes_left(zuul, admin)


async def withdraw_when(zuul: Zuul, request_id: str, state: str) -> None:
    """Delete the request from within the event that shows that state."""
    path = f"{REQUESTS}/{request_id}"

    def drop(data: bytes | None, _stat: object) -> bool | None:
        if data is None or f'"{state}"'.encode() not in data:
            return None
        zuul.kazoo.delete(path)
        return False

    async def is_gone() -> bool:
        return await zuul.request(request_id) is None

    zuul.kazoo.DataWatch(path, drop)
    await eventually(is_gone, "the request withdrawn")


async def test_with_its_lock_contended_for(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(manual_label()))
    request_id = await zuul.submit("pod")
    await zuul.building(request_id)
    contender = zuul.kazoo.create(
        f"{REQUEST_LOCKS}/{request_id}/contender__lock__", ephemeral=True, sequence=True
    )
    await zuul.cancel(request_id)
    await eventually(lambda: _no_nodes(zuul), "nodes gone")
    await zuul.delete(contender)
    await all_gone(zuul, admin)


async def _no_nodes(zuul: Zuul) -> bool:
    return not await zuul.children(NODES)


async def test_fulfilled_and_never_accepted(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(pod_label(), pod_label("other-pod")))
    request_id = await zuul.submit("pod", "other-pod")
    await zuul.answered(request_id)
    await zuul.cancel(request_id)
    assert await only_free_nodes_left(zuul, admin) == 2
