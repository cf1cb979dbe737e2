"""Znodes that are not what they should be: said once, passed over, and nothing else stops."""

import json
from typing import Any

import pytest
from harness.requestor import NODES, POOLS, REQUESTS, zuul_request

from tests.support.launchers import Launchers
from tests.support.site import SiteMaker, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

JUNK: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{not JSON",
    "not text": bytes(range(256)),
    "a list": b"[]",
    "a number": b"17",
    "null": b"null",
    "no state": b'{"node_types": ["pod"]}',
    "an unknown state": b'{"state": "dreaming", "node_types": ["pod"]}',
    "a state that is a list": b'{"state": ["requested"], "node_types": ["pod"]}',
    "endless nesting": b"[" * 100_000,
    "huge": b'{"state": "requested", "filling": "' + b"x" * 900_000,
}

JUNK_REQUESTS = {
    **JUNK,
    "no labels": b'{"state": "requested"}',
    "labels that are no texts": b'{"state": "requested", "node_types": [1, null]}',
    "labels in a mapping": b'{"state": "requested", "node_types": {"pod": 1}}',
    "huge labels": json.dumps({"state": "requested", "node_types": {"x" * 900_000: 1}}).encode(),
}

ODD_REQUESTS: dict[str, list[Any]] = {
    "relative_priority": [float("nan"), float("inf"), 1e308, -5, "high", None, [], True],
    "requestor_data": [None, "text", [1], {"a": {"b": {}}}],
    "tenant_name": [None, 5, {}],
    "event_id": [None, 5, "\ud800"],
    "provider": [5, {}, ""],
    "created_time": [float("nan"), "yesterday", 10**400],
    "declined_by": [None, "one"],
    "state_time": [None, float("-inf")],
}


async def test_a_malformed_request_stops_no_other(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, caplog: pytest.LogCaptureFixture
) -> None:
    early = [await zuul.submit_raw(data) for data in JUNK_REQUESTS.values()]
    await launchers.start(make_site(pod_label()))
    late = [await zuul.submit_raw(data) for data in JUNK_REQUESTS.values()]
    await zuul.create(f"{REQUESTS}/weird", zuul_request(["pod"]))
    await zuul.use_and_return(await zuul.submit("pod"))

    def times_reported(request_id: str) -> int:
        told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        return sum(f"{REQUESTS}/{request_id}:" in line for line in told)

    await eventually(lambda: times_reported("weird"), "reported")
    await zuul.use_and_return(await zuul.submit("pod"))
    for request_id in [*early, *late]:
        assert times_reported(request_id) == 1


async def test_a_request_put_right_is_served(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label()))
    request_id = await zuul.submit_raw(b"")
    await zuul.use_and_return(await zuul.submit("pod"))
    await zuul.put(f"{REQUESTS}/{request_id}", zuul_request(["pod"]))
    await zuul.use_and_return(request_id)


@pytest.mark.parametrize("key", ODD_REQUESTS)
async def test_an_odd_value_loses_no_request(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, key: str
) -> None:
    await launchers.start(make_site(pod_label()))
    for value in ODD_REQUESTS[key]:
        request_id = await zuul.submit("pod", **{key: value})
        request = await zuul.answered(request_id)
        if key == "requestor_data":
            assert request[key] == value
        await zuul.use_and_return(request_id)


async def test_odd_ids_are_served_or_passed_over(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    for name in ("200-", "-0000000001", "200-abc", "a b-c", "\u00e4-1", "x" * 300 + "-1", "1-2-3"):
        await zuul.create(f"{REQUESTS}/{name}", zuul_request(["pod"]))
    await launchers.start(make_site(pod_label()))
    await zuul.use_and_return(await zuul.submit("pod"))


async def test_a_request_for_nothing_is_answered(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label()))
    request = await zuul.answered(await zuul.submit(), "fulfilled", "failed")
    assert request["nodes"] == []
    await zuul.use_and_return(await zuul.submit("pod"))


async def test_a_malformed_node_stops_nothing(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, caplog: pytest.LogCaptureFixture
) -> None:
    odd: list[dict[str, Any]] = [
        {"state": "ready", "resources": {"cores": float("nan"), "ram": 1e308, "instances": "x"}},
        {"state": "used", "driver_data": {"nodepool_k8s": {"claimed": "everything"}}},
        {"state": "used", "driver_data": {"nodepool_k8s": {"claimed": {"instances": "x"}}}},
        {"state": "used", "driver_data": ["nodepool_k8s"]},
        {"state": "building", "provider": "local", "pool": 5, "type": "pod"},
        {"state": "used", "type": [None]},
    ]
    nodes = [json.dumps({"provider": "local", "pool": make_site.pool, **record}) for record in odd]
    contents = [*JUNK.values(), *(node.encode() for node in nodes)]
    paths = [await zuul.create(f"{NODES}/", data, sequence=True) for data in contents[::2]]
    await launchers.start(make_site(pod_label(), pool={"max-servers": 5, "max-cores": 5}))
    paths += [await zuul.create(f"{NODES}/", data, sequence=True) for data in contents[1::2]]
    paths.append(await zuul.create(f"{NODES}/weird", b"{}"))
    await zuul.use_and_return(await zuul.submit("pod"))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for path in paths:
        assert sum(f"{path}:" in line for line in warnings) <= 1
        await zuul.delete(path)  # Left alone until now.


async def test_a_malformed_pool_component_stops_nothing(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    odd = [
        {"id": 5},
        {"id": "one", "supported_labels": 5},
        {"id": "two", "supported_labels": ["pod"], "priority": "first"},
        {"id": "three", "supported_labels": ["other"], "priority": float("nan"), "paused": "no"},
    ]
    contents = [*JUNK.values(), *(json.dumps(record).encode() for record in odd)]
    for data in contents[::2]:
        await zuul.create(f"{POOLS}/x", data, sequence=True, ephemeral=True)
    await launchers.start(make_site(pod_label()))
    for data in contents[1::2]:
        await zuul.create(f"{POOLS}/x", data, sequence=True, ephemeral=True)
    await zuul.use_and_return(await zuul.submit("pod"))
    for name in await zuul.children(POOLS):
        if name.startswith("x"):
            await zuul.delete(f"{POOLS}/{name}")


async def test_a_ledger_that_cannot_be_read_is_made_anew(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), pool={"max-servers": 2}))
    first = await zuul.submit("pod")
    await zuul.answered(first)
    await zuul.put(f"/nodepool-k8s/ledger/local/{make_site.pool}", b"{not JSON")
    await zuul.use_and_return(await zuul.submit("pod"))
    await zuul.use_and_return(first)
