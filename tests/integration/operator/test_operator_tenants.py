"""Tenants' limits: over providers and launchers, never exceeded; excess waits."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness.requestor import NODES

from tests.support.launchers import Launchers
from tests.support.site import Options, SiteMaker, manual_label, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration


def limits(**amounts: Any) -> Options:
    entry = {key.replace("_", "-"): value for key, value in amounts.items()}
    return {"tenant-resource-limits": [{"tenant-name": "tenant-one", **entry}]}


def two_providers(make_site: SiteMaker, *labels: Options, top: Options) -> Any:
    """One label in two providers, each with a pool of its own."""
    pools = [[{"name": f"{make_site.pool}-{n}", "labels": list(labels)}] for n in (1, 2)]
    providers = [{"name": f"provider-{n}", "pools": pools[n - 1]} for n in (1, 2)]
    return make_site.of(providers, top)


async def held(zuul: Zuul, tenant: str = "tenant-one") -> set[str]:
    """Ids of nodes that all counted for the tenant at one moment.

    Records are read one after the other, so only what is found twice was there between.
    """

    async def found() -> set[str]:
        nodes = await zuul.nodes()
        return {name for name, node in nodes.items() if node["tenant_name"] == tenant}

    return await found() & await found()


async def ledger(zuul: Zuul, tenant: str = "tenant-one") -> dict[str, int]:
    record = await zuul.get(f"/nodepool-k8s/tenants/{tenant}")
    return dict((record or {"claimed": {}})["claimed"])


class Highest:
    """The most instances that a tenant's ledger ever held, heard of by watch."""

    def __init__(self, zuul: Zuul, tenant: str = "tenant-one") -> None:
        self.most = 0
        zuul.kazoo.DataWatch(f"/nodepool-k8s/tenants/{tenant}", self._see)

    def _see(self, data: bytes | None, _stat: object) -> None:
        claimed = json.loads(data)["claimed"] if data else {}
        self.most = max(self.most, claimed.get("instances", 0) // 1000)


async def test_a_burst_never_exceeds_the_tenants_limit(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = two_providers(make_site, namespace_label("node"), top=limits(max_servers=3))
    highest = Highest(zuul)
    await asyncio.gather(*(launchers.start(site) for _ in range(2)))
    requests = [await zuul.submit("node") for _ in range(12)]

    async def use(request_id: str) -> None:
        await zuul.answered(request_id)
        assert len(await held(zuul)) <= 3
        await zuul.give_back(await zuul.accept(request_id))

    await asyncio.gather(*(use(request_id) for request_id in requests))
    assert highest.most == 3
    await eventually(lambda: _empty(zuul), "the tenant's ledger is empty")


async def _empty(zuul: Zuul) -> bool:
    return not await ledger(zuul)


async def test_building_nodes_count_for_their_tenant(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = two_providers(make_site, manual_label(), top=limits(max_servers=1))
    await launchers.start(site)
    first = await zuul.submit("pod")
    await zuul.building(first)
    second = await zuul.submit("pod")
    other = await zuul.submit("pod", tenant_name="tenant-two")
    await zuul.building(other)  # Had its turn after the second had been passed over.
    record = await zuul.request(second)
    assert record is not None
    assert record["state"] == "requested"
    assert len(await zuul.children(NODES)) == 2


async def test_what_exceeds_a_tenants_limit_waits_and_is_not_declined(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    label = pod_label(cpu=1, memory=512)
    await launchers.start(make_site(label, top=limits(max_cores=2, max_ram=4096)))
    first = await zuul.submit("pod", "pod")
    await zuul.answered(first)
    second, never = await zuul.submit("pod"), await zuul.submit("pod", "pod", "pod")
    other = await zuul.submit("pod", tenant_name="tenant-two")
    await zuul.answered(other)
    for request_id in (second, never):
        record = await zuul.request(request_id)
        assert record is not None
        assert (record["state"], record.get("declined_by")) == ("requested", None)
    (component,) = await zuul.components()
    assert component["paused"] is False
    await zuul.use_and_return(first)
    await zuul.answered(second)
    await zuul.cancel(never)


async def test_a_ready_node_counts_for_the_tenant_that_it_is_given_to(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), top=limits(max_servers=1)))
    spare = await zuul.submit("pod", tenant_name="tenant-two")
    await zuul.answered(spare)
    await zuul.cancel(spare)
    first = await zuul.submit("pod")
    await zuul.answered(first)
    assert (await ledger(zuul))["instances"] == 1000
    second = await zuul.submit("pod")
    other = await zuul.submit("pod", tenant_name="tenant-two")
    await zuul.answered(other)
    assert (await zuul.request(second) or {})["state"] == "requested"
    await zuul.cancel(first)  # Never accepted: the node is free, and the tenant's room, too.
    await zuul.answered(second)
    assert (await ledger(zuul))["instances"] == 1000


async def test_nodes_of_another_launchers_tenant_count_too(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    node = {
        "state": "in-use",
        "type": ["pod"],
        "provider": "nodepools",
        "pool": "main",
        "tenant_name": "tenant-one",
        "resources": {"instances": 1, "cores": 1, "ram": 1024},
    }
    path = await zuul.create(f"{NODES}/", node, sequence=True)
    await launchers.start(make_site(pod_label(), top=limits(max_servers=1)))
    waits = await zuul.submit("pod")
    await zuul.answered(await zuul.submit("pod", tenant_name="tenant-two"))
    assert (await zuul.request(waits) or {})["state"] == "requested"
    await zuul.delete(path)
    await zuul.answered(waits)


async def test_a_tenants_ledger_that_lost_count_is_corrected(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(pod_label(), top=limits(max_servers=2))
    running = await launchers.start(site)
    request_id = await zuul.submit("pod")
    await zuul.answered(request_id)
    await running.stop()
    await zuul.put("/nodepool-k8s/tenants/tenant-one", b'{"claimed":{"instances":9000}}')
    await launchers.start(site)

    async def corrected() -> bool:
        return (await ledger(zuul)).get("instances") == 1000

    await eventually(corrected, "the ledger corrected")
