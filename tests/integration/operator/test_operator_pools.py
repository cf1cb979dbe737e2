"""Several pools and launchers: what the registry says, who goes first, and how many at a time.

More of the same promises: ``launcher/test_launcher_choosing.py``, which pool serves a request
or declines it; ``launcher/test_launcher_quota.py``, limits and the order of what waits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness.requestor import POOLS, REQUESTS
from harness.zookeeper import Record

from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import Options, SiteMaker, manual_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration


def provider(name: str, *pools: Options, **options: Any) -> Options:
    return {"name": name, "pools": list(pools), **_dashed(options)}


def pool(name: str, *labels: Options, **options: Any) -> Options:
    return {"name": name, "labels": list(labels), **_dashed(options)}


def _dashed(options: Options) -> Options:
    return {key.replace("_", "-"): value for key, value in options.items()}


async def node_of(zuul: Zuul, request_id: str) -> Record:
    request = await zuul.answered(request_id)
    node = await zuul.node(request["nodes"][0])
    assert node is not None
    return node


async def is_left_alone(zuul: Zuul, request_id: str, *served: str) -> None:
    """A later request, for the labels, is served, and this one is as it was."""
    await zuul.use_and_return(await zuul.submit(*served))
    request = await zuul.request(request_id)
    assert request is not None
    assert request["state"] == "requested"
    assert not request.get("declined_by")


# --- the registry ----------------------------------------------------------------------------


async def test_each_pool_is_registered_while_it_is_served(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    name = make_site.pool
    site = make_site.of(
        [
            provider("plain", pool(f"{name}-1", pod_label("a"), pod_label("b"))),
            provider(
                "urgent",
                pool(f"{name}-2", pod_label("b")),
                pool(f"{name}-3", pod_label("c"), priority=7),
                priority=50,
            ),
        ]
    )
    processes = [await launchers.spawn(site) for _ in range(2)]
    entries = await zuul.components()
    assert len({entry["id"] for entry in entries}) == 6
    found = sorted(
        (entry["provider_name"], entry["priority"], entry["supported_labels"], entry["paused"])
        for entry in entries
    )
    expected = [
        ("plain", 100, ["a", "b"], False),
        ("urgent", 7, ["c"], False),
        ("urgent", 50, ["b"], False),
    ]
    assert found == sorted(expected * 2)
    for entry in entries:
        assert entry["kind"] == "pool"
        assert entry["state"] == "running"
        assert entry["model_api"] == 0
        assert entry["name"] in (f"{name}-1", f"{name}-2", f"{name}-3")
    for process in processes:
        assert await process.terminate() == 0
    assert await zuul.components() == []


@contextmanager
def history_of(zuul: Zuul, path: str) -> Iterator[list[bool]]:
    """What a pool's record said about pausing, each change of it."""
    seen: list[bool] = []

    def look(data: bytes | None, _stat: Any, _event: Any = None) -> None:
        if data:
            paused = json.loads(data)["paused"]
            if seen[-1:] != [paused]:
                seen.append(paused)

    zuul.kazoo.DataWatch(path, look)
    yield seen


async def test_a_pool_is_registered_as_paused_while_it_is_full(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), pool={"max-servers": 2}))
    (name,) = await zuul.children(POOLS)
    with history_of(zuul, f"{POOLS}/{name}") as seen:
        # Full is not paused: nobody waits.
        full = await zuul.submit("pod", "pod")
        await zuul.answered(full)
        component = await zuul.get(f"{POOLS}/{name}")
        assert component is not None
        assert component["paused"] is False
        waiting = [await zuul.submit("pod") for _ in range(2)]
        await eventually(lambda: seen == [False, True], "paused")
        await zuul.use_and_return(full)
        for request_id in waiting:
            await zuul.answered(request_id)
        await eventually(lambda: seen == [False, True, False], "not paused any more")
        # Who waits may also go.
        last = await zuul.submit("pod")
        await eventually(lambda: seen[3:] == [True], "paused again")
        await zuul.cancel(last)
        await eventually(lambda: seen[4:] == [False], "and not any more")


async def test_a_pool_at_max_concurrency_is_busy_and_not_paused(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    name = make_site.pool
    busy = provider("busy", pool(name, manual_label(), priority=10), max_concurrency=1)
    lower = provider("lower", pool(f"{name}-2", pod_label(), pod_label("other"), priority=20))
    await launchers.start(make_site.of([busy, lower]))
    first = await zuul.submit("pod")
    (building,) = await zuul.building(first)
    second = await zuul.submit("pod")
    # The pool of lower priority leaves it alone: there is room where it belongs.
    await is_left_alone(zuul, second, "other")
    assert not any(entry["paused"] for entry in await zuul.components())
    await make_ready(zuul, admin, building)
    await make_ready(zuul, admin, *await zuul.building(second))
    assert (await node_of(zuul, second))["provider"] == "busy"


async def make_ready(zuul: Zuul, admin: Admin, node_id: str) -> None:
    """Say for its kubelet that a node's pod is ready."""
    node = await zuul.node(node_id)
    assert node is not None
    namespace, name = node["external_id"], node["type"][0]
    await eventually(lambda: admin.pod(namespace, name), "its pod")
    await admin.make_ready(namespace, name)


# --- who goes first ------------------------------------------------------------------------


async def test_a_pools_own_priority_counts_before_its_providers(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    name = make_site.pool
    one = pod_label()
    site = make_site.of(
        [
            provider(
                "urgent",
                pool(f"{name}-last", one, max_servers=1, priority=300),
                pool(f"{name}-second", one, max_servers=1),
                priority=50,
            ),
            provider(
                "plain",
                pool(f"{name}-third", one, max_servers=1),
                pool(f"{name}-first", one, max_servers=1, priority=10),
            ),
        ]
    )
    await launchers.start(site)
    served = [(await node_of(zuul, await zuul.submit("pod")))["pool"] for _ in range(4)]
    assert served == [f"{name}-{which}" for which in ("first", "second", "third", "last")]


async def test_requests_left_to_a_higher_pool_are_served_when_it_goes(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    path = await zuul.register(id="other-launcher", supported_labels=["both"], priority=1)
    await launchers.start(make_site(pod_label("both"), pod_label("ours")))
    request_id = await zuul.submit("both")
    await is_left_alone(zuul, request_id, "ours")
    await zuul.delete(path)
    await zuul.answered(request_id)


async def test_a_request_waits_for_the_provider_that_it_names(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    name = make_site.pool
    named = provider("named", pool(name, pod_label(), max_servers=1, priority=200))
    higher = provider("higher", pool(f"{name}-2", pod_label(), pod_label("other"), priority=10))
    await launchers.start(make_site.of([named, higher]))
    first, second = [await zuul.submit("pod", provider="named") for _ in range(2)]
    assert (await node_of(zuul, first))["provider"] == "named"
    # It is at its limit and pauses; the other one has room, and was not asked.
    await is_left_alone(zuul, second, "other")
    await zuul.use_and_return(first)
    assert (await node_of(zuul, second))["provider"] == "named"


async def test_a_named_provider_is_awaited_only_while_it_may_serve(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    elsewhere = {"provider_name": "elsewhere", "supported_labels": ["pod"]}
    path = await zuul.register(id="one", **elsewhere)
    await zuul.register(id="two", **elsewhere)
    await launchers.start(make_site(pod_label(), pod_label("other")))
    request_id = await zuul.submit("pod", provider="elsewhere")
    await is_left_alone(zuul, request_id, "other")
    # One of its pools goes; the other declines.
    await zuul.delete(path)
    await is_left_alone(zuul, request_id, "other")
    await decline(zuul, request_id, "two")
    assert (await node_of(zuul, request_id))["provider"] == "local"


async def decline(zuul: Zuul, request_id: str, identity: str) -> None:
    """Decline a request for another pool, as Nodepool does."""
    path = f"{REQUESTS}/{request_id}"
    data, stat = await zuul.do(zuul.kazoo.get, path)
    record = json.loads(data)
    record["declined_by"] = [*record.get("declined_by", []), identity]
    await zuul.do(zuul.kazoo.set, path, json.dumps(record).encode(), version=stat.version)


async def test_unservable_requests_are_declined_while_others_wait(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), pool={"max-servers": 1}))
    first = await zuul.submit("pod")
    await zuul.answered(first)
    waits = await zuul.submit("pod", priority=100)
    for labels in (["nonesuch"], ["pod", "nonesuch"], ["pod", "pod"]):
        request = await zuul.answered(await zuul.submit(*labels, priority=300), "failed")
        assert len(request["declined_by"]) == 1
    left = await zuul.request(waits)
    assert left is not None
    assert left["state"] == "requested"
    await zuul.use_and_return(first)
    await zuul.answered(waits)


async def test_requests_that_a_pool_lacks_labels_for_come_last(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await zuul.register(id="other-launcher", supported_labels=["pod", "bare-metal"], priority=200)
    await launchers.start(make_site(pod_label(), pool={"max-servers": 1}))
    lacking = await zuul.submit("pod", "bare-metal", priority=100)
    await is_left_alone(zuul, lacking, "pod")


# --- max-concurrency ----------------------------------------------------------------------


async def test_max_concurrency_counts_all_pools_of_a_provider(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    name = make_site.pool
    limited = provider(
        "limited",
        pool(f"{name}-1", manual_label("a")),
        pool(f"{name}-2", manual_label("b")),
        max_concurrency=2,
    )
    free = provider("free", pool(f"{name}-3", pod_label("c")))
    await launchers.start(make_site.of([limited, free]))
    ids = [await zuul.submit(label) for label in ("a", "b", "a", "b")]
    for left in range(len(ids), 0, -1):
        # A launch of another provider is not held back, and when that has come back any more
        # of this one would have begun.
        await zuul.use_and_return(await zuul.submit("c"))
        node_id, node = (await building(zuul, min(2, left))).popitem()
        await make_ready(zuul, admin, node_id)
        await zuul.answered(node["allocated_to"])
    for request_id in ids:
        await zuul.answered(request_id)


async def building(zuul: Zuul, number: int) -> dict[str, Record]:
    """Wait until so many nodes are building; there are never more."""

    async def check() -> dict[str, Record]:
        nodes = await zuul.nodes()
        made = {name: node for name, node in nodes.items() if node["state"] == "building"}
        if len(made) > number:
            raise RuntimeError(f"more than {number} nodes are building: {sorted(made)}")
        return made if len(made) == number else {}

    found: dict[str, Record] = await eventually(check, f"{number} nodes building")
    return found


@pytest.mark.parametrize("number", [0, -1])
async def test_max_concurrency_of_0_or_less_is_no_limit(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, number: int
) -> None:
    await launchers.start(make_site(manual_label(), provider={"max-concurrency": number}))
    ids = [await zuul.submit("pod") for _ in range(6)]
    for node_id in await building(zuul, len(ids)):
        await make_ready(zuul, admin, node_id)
    for request_id in ids:
        await zuul.answered(request_id)
