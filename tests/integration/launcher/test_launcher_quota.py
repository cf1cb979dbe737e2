"""Never above a limit, at any instant; and who waits goes in order, the moment room appears."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from harness.requestor import NODES, REQUEST_LOCKS, REQUESTS

from tests.support.admin import DEPLOYMENT, Admin
from tests.support.launchers import Launchers
from tests.support.site import Options, SiteMaker, pod_label, spec_label
from tests.support.waiting import eventually
from tests.support.zuul import LedgerWatch, Recorder, Zuul

pytestmark = pytest.mark.integration


@dataclass
class Watched:
    """The largest numbers that were seen: of pods in the cluster, of records in ZooKeeper."""

    pods: Recorder
    records: Recorder
    ledger: LedgerWatch

    def assert_never_above(self, limit: int) -> None:
        assert self.pods.maximum <= limit
        assert self.records.maximum <= limit
        assert not self.ledger.differences
        assert self.pods.looks > 3
        assert self.records.looks > 3


@asynccontextmanager
async def watching(site: SiteMaker, admin: Admin, deployment: str) -> AsyncIterator[Watched]:
    """Look at the cluster and at ZooKeeper all the time."""

    def pods() -> int:
        found = admin.call_from_thread(
            "GET", f"/api/v1/pods?labelSelector={DEPLOYMENT}={deployment}"
        )
        return len(found["items"])

    ledger = LedgerWatch(site.hosts, site.pool)
    ledger.start()
    try:
        async with Recorder(pods) as most_pods, Recorder(ledger.look) as most_nodes:
            yield Watched(most_pods, most_nodes, ledger)
    finally:
        ledger.stop()


async def serve_all(zuul: Zuul, ids: list[str]) -> list[str]:
    """Use and return the nodes of each request as it is fulfilled; the order of fulfilment."""
    order: list[str] = []

    async def one_more() -> str | None:
        for request_id in ids:
            if request_id in order:
                continue
            record = await zuul.request(request_id)
            assert record is not None
            if record["state"] == "fulfilled":
                return request_id
        return None

    while len(order) < len(ids):
        request_id = await eventually(one_more, f"one more of {len(ids) - len(order)} requests")
        order.append(request_id)
        await zuul.use_and_return(request_id)
    return order


SPEC = {
    "containers": [
        {
            "name": name,
            "image": "docker.io/library/busybox:1.35",
            "resources": {"requests": {"cpu": "1500m"}, "limits": {"cpu": "2"}},
        }
        for name in ("first", "second")
    ]
}

LIMITS: dict[str, tuple[Options, Options, Options, int]] = {
    "max-servers": (pod_label(), {"max-servers": 3}, {}, 3),
    "max-cores": (pod_label(cpu=2), {"max-cores": 5}, {}, 2),
    "max-ram": (pod_label(memory=300), {"max-ram": 1000}, {}, 3),
    "extra": (
        pod_label(extra_resources={"licences": 2}),
        {"max-resources": {"licences": 5}},
        {},
        2,
    ),
    "gpu": (
        pod_label(gpu=1, gpu_resource="nvidia.com/gpu"),
        {"max-resources": {"nvidia.com/gpu": 2}},
        {},
        2,
    ),
    "provider's max-servers": (pod_label(), {}, {"max-servers": 2}, 2),
    "provider's max-cores": (pod_label(), {"default-label-cpu": 1}, {"max-cores": 3}, 3),
    "pool's over provider's": (pod_label(), {"max-servers": 3}, {"max-servers": 1}, 3),
    "a raw spec's own requests": (
        spec_label(SPEC),
        {"max-cores": 7, "default-label-cpu": 7},
        {},
        2,
    ),
}


@pytest.mark.parametrize("name", LIMITS)
async def test_a_pool_is_never_above_its_limit(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, name: str
) -> None:
    label, pool, provider, limit = LIMITS[name]
    await launchers.start(make_site(label, pool=pool, provider=provider))
    async with watching(make_site, admin, await zuul.deployment()) as watched:
        ids = [await zuul.submit("pod") for _ in range(2 * limit)]
        await eventually(lambda: watched.records.maximum == limit, "the pool full")
        await serve_all(zuul, ids)
    watched.assert_never_above(limit)


async def test_two_launchers_never_exceed_a_shared_pools_limit(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(
        pod_label(cpu=1), pod_label("large", cpu=2), pool={"max-servers": 6, "max-cores": 8}
    )
    await launchers.start(site)
    await launchers.start(site)
    async with watching(make_site, admin, await zuul.deployment()) as watched:
        ids = [await zuul.submit(("pod", "large")[number % 4 == 0]) for number in range(40)]
        await serve_all(zuul, ids)
    watched.assert_never_above(6)
    assert watched.ledger.maximum["cores"] <= 8


async def test_a_multi_node_request_is_claimed_whole(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(pod_label(), pool={"max-servers": 3}))
    async with watching(make_site, admin, await zuul.deployment()) as watched:
        ids = [await zuul.submit("pod", "pod") for _ in range(3)]
        await serve_all(zuul, ids)
    watched.assert_never_above(3)


# --- what can never fit ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "pool", "reason"),
    [
        (pod_label(), {"max-servers": 1}, "2 of instances where max-servers is 1"),
        (pod_label(cpu=3), {"max-cores": 5}, "6 of cores where max-cores is 5"),
        (pod_label(memory=100), {"max-ram": 150}, "200 MiB of ram where max-ram is 150"),
        (
            pod_label(extra_resources={"licences": 2}),
            {"max-resources": {"licences": 3}},
            "4 of licences where max-resources licences is 3",
        ),
        (pod_label(), {"max-servers": 0}, "max-servers of the pool is 0"),
    ],
)
async def test_what_never_fits_fails_with_the_reason(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    label: Options,
    pool: Options,
    reason: str,
) -> None:
    await launchers.start(make_site(label, pool=pool))
    request = await zuul.answered(await zuul.submit("pod", "pod"), "failed")
    (component,) = await zuul.components()
    assert request["declined_by"] == [component["id"]]
    (told,) = request["nodepool_k8s"]["reasons"]
    assert reason in told
    assert request["nodes"] == []


# --- order -----------------------------------------------------------------------------------


async def test_waiting_requests_go_in_order_of_priority(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), pool={"max-servers": 1}))
    first = await zuul.submit("pod")
    await zuul.answered(first)
    low = await zuul.submit("pod", priority=300)
    later = await zuul.submit("pod", relative_priority=5)
    normal = await zuul.submit("pod", relative_priority=1)
    after_normal = await zuul.submit("pod", relative_priority=1)
    high = await zuul.submit("pod", priority=100, relative_priority=9)
    await zuul.use_and_return(first)
    ids = [low, later, normal, after_normal, high]
    assert await serve_all(zuul, ids) == [high, normal, after_normal, later, low]


async def test_a_revised_priority_changes_the_order(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), pool={"max-servers": 1}))
    first = await zuul.submit("pod")
    await zuul.answered(first)
    second = await zuul.submit("pod", relative_priority=5)
    third = await zuul.submit("pod", relative_priority=5)
    await revise(zuul, third, 0)
    await zuul.use_and_return(first)
    assert await serve_all(zuul, [second, third]) == [third, second]


async def revise(zuul: Zuul, request_id: str, relative_priority: int) -> None:
    """Zuul's way: under the request's lock, a versioned write."""
    lock = await zuul.lock(f"{REQUEST_LOCKS}/{request_id}")
    path = f"{REQUESTS}/{request_id}"
    data, stat = await zuul.do(zuul.kazoo.get, path)
    record: dict[str, Any] = {**json.loads(data), "relative_priority": relative_priority}
    await zuul.do(zuul.kazoo.set, path, json.dumps(record).encode(), version=stat.version)
    await zuul.unlock(lock)


async def test_a_large_request_is_not_overtaken(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), pool={"max-servers": 2}))
    first = await zuul.submit("pod")
    await zuul.answered(first)
    both = await zuul.submit("pod", "pod")
    small = await zuul.submit("pod")
    await eventually(lambda: is_paused(zuul), "the pool says that it is at its limit")
    await zuul.use_and_return(first)
    assert await serve_all(zuul, [both, small]) == [both, small]


async def is_paused(zuul: Zuul) -> bool:
    return all(component["paused"] for component in await zuul.components())


async def test_a_pool_pauses_while_somebody_waits_and_goes_on_after(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), pool={"max-servers": 1}))
    first, second = [await zuul.submit("pod") for _ in range(2)]
    await eventually(lambda: is_paused(zuul), "paused")
    assert sorted(await serve_all(zuul, [first, second])) == [first, second]

    async def goes_on() -> bool:
        return not await is_paused(zuul)

    await eventually(goes_on, "not paused any more")


async def test_max_concurrency_limits_launches_and_not_nodes(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), provider={"max-concurrency": 1}))
    ids = [await zuul.submit("pod") for _ in range(4)]
    for request_id in ids:
        await zuul.answered(request_id)
    assert len(await zuul.nodes()) == 4


async def test_another_launchers_nodes_count(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    foreign = {
        "state": "in-use",
        "state_time": 1.0,
        "type": ["pod"],
        "provider": "local",
        "pool": make_site.pool,
        "allocated_to": None,
        "driver_data": None,
        "resources": {"cores": 0, "ram": 0, "instances": 1},
    }
    path = await zuul.create(f"{NODES}/", foreign, sequence=True)
    lock = await zuul.create(f"{path}/lock/x__lock__", b"", makepath=True, sequence=True)
    await launchers.start(make_site(pod_label(), pool={"max-servers": 1}))
    request_id = await zuul.submit("pod")
    await eventually(lambda: is_paused(zuul), "it waits")
    for gone in (lock, f"{path}/lock", path):
        await zuul.delete(gone)
    await zuul.answered(request_id)
