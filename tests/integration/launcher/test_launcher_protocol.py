"""A node request from Zuul's side: every key it reads, every lock it takes."""

import time

import pytest
from harness.requestor import NODES, REQUEST_LOCKS, REQUESTS, zuul_request

from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import SiteMaker, manual_label, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

NODE_KEYS = {
    *("cloud", "type", "provider", "pool", "az", "region", "public_ipv4", "private_ipv4"),
    *("public_ipv6", "host_id", "interface_ip", "connection_port", "ssh_port", "image_id"),
    *("launcher", "created_time", "external_id", "hostname", "comment", "user_data", "hold_job"),
    *("host_keys", "username", "connection_type", "shell_type", "hold_expiration", "slot"),
    *("attributes", "python_path", "node_properties", "resources", "tenant_name", "requestor"),
    *("state", "state_time", "allocated_to", "driver_data"),
}
"""The keys of a node's record in Nodepool 11 (``Node.toDict``)."""


async def test_a_pod_node_is_what_zuul_expects(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(
        pod_label(cpu=2, memory=512, python_path="/usr/bin/python3", shell_type="csh"),
        pool={"node-attributes": {"executor-zone": "vpn"}},
    )
    await launchers.start(site)
    before = time.time()
    request_id = await zuul.submit("pod")
    request = await zuul.answered(request_id)

    node = await zuul.node(request["nodes"][0])
    assert node is not None
    assert node.keys() >= NODE_KEYS
    namespace = make_site.namespace(request["nodes"][0])
    connection = node["connection_port"]
    assert connection == node["ssh_port"]
    assert connection.keys() == {"name", "namespace", "host", "skiptls", "token", "user"} | {
        *("ca_crt", "pod")
    }
    assert connection["name"] == connection["namespace"] == node["external_id"] == namespace
    assert connection["host"] == admin.url
    assert connection["skiptls"] is False
    assert connection["user"] == "zuul-worker"
    assert connection["pod"] == node["interface_ip"] == "pod"
    assert len(connection["token"]) > 100
    expected = {
        "cloud": site.cluster.context,
        "type": ["pod"],
        "provider": "local",
        "pool": make_site.pool,
        "allocated_to": request_id,
        "state": "ready",
        "connection_type": "kubectl",
        "host_id": "kwok-0",
        "python_path": "/usr/bin/python3",
        "shell_type": "csh",
        "attributes": {"executor-zone": "vpn"},
        "resources": {"cores": 2, "ram": 512, "instances": 1},
        "tenant_name": "tenant-one",
        "requestor": "zuul system",
        "host_keys": [],
        "node_properties": {},
    }
    assert {key: node[key] for key in expected} == expected
    for key in ("az", "region", "public_ipv4", "private_ipv4", "public_ipv6", "hold_expiration"):
        assert node[key] is None
    assert before <= node["created_time"] <= node["state_time"] <= time.time()


async def test_a_namespace_node_has_no_host(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(namespace_label()))
    request = await zuul.answered(await zuul.submit("namespace"))
    node = await zuul.node(request["nodes"][0])
    assert node is not None
    assert node["connection_type"] == "namespace"
    assert node["interface_ip"] is None
    assert node["host_id"] is None
    assert node["resources"] == {"cores": 0, "ram": 0, "instances": 1}
    assert "pod" not in node["connection_port"]
    assert node["connection_port"]["namespace"] == node["external_id"]


async def test_a_request_keeps_every_key_of_zuul(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label()))
    record = zuul_request(["pod"], a_later_key={"of": ["zuul", 15, None, "\u00e4"]})
    record["requestor_data"]["span_info"] = {"trace": "\u2603", "n": 1.50, "deep": {"b": 1, "a": 2}}
    request = await zuul.answered(await zuul.submit_raw(record))
    for key in record.keys() - {"state", "state_time"}:
        assert request[key] == record[key]
    # Byte for byte: the order of keys as well.
    assert str(request["requestor_data"]) == str(record["requestor_data"])


async def test_fulfilled_shows_when_every_lock_is_free(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), pod_label("b-pod"), pod_label("c-pod")))
    request_id = await zuul.submit("pod", "c-pod", "b-pod", "pod")
    seen = zuul.watch_answer(request_id)
    sighting = await eventually(seen, "the answer")
    assert sighting is not None
    assert sighting.request["state"] == "fulfilled"
    assert list(sighting.node_locks.values()) == [[]] * 4
    assert [node["type"] for node in sighting.nodes] == [
        *(["pod"], ["c-pod"]),
        *(["b-pod"], ["pod"]),
    ]
    assert {node["state"] for node in sighting.nodes} == {"ready"}
    assert {node["allocated_to"] for node in sighting.nodes} == {request_id}


async def test_pending_is_under_the_locks_of_request_and_node(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(manual_label()))
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    request = await zuul.answered(request_id, "pending")
    assert request["nodes"] == []
    assert await zuul.children(f"{REQUEST_LOCKS}/{request_id}")
    assert await zuul.children(f"{NODES}/{node_id}/lock")
    assert not await zuul.children(f"{REQUESTS}/{request_id}")
    # The name is there before the namespace is, for whoever has to clean up.
    node = await zuul.node(node_id)
    assert node is not None
    assert node["external_id"] == make_site.namespace(node_id)
    await eventually(lambda: admin.pod(make_site.namespace(node_id)), "its pod")
    await admin.make_ready(make_site.namespace(node_id))
    await zuul.answered(request_id)


async def test_zuul_accepts_uses_and_returns_a_node(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(pod_label()))
    request_id = await zuul.submit("pod")
    request = await zuul.answered(request_id)
    (node_id,) = request["nodes"]
    locks = await zuul.accept(request_id)
    # Nothing is done to a node that somebody uses, and a key of his own stays.
    await zuul.set_node(node_id, a_later_key="kept")
    other = await zuul.answered(await zuul.submit("pod"))
    assert await admin.pod(make_site.namespace(node_id)) is not None
    node = await zuul.node(node_id)
    assert node is not None
    assert node["state"] == "in-use"
    await zuul.give_back(locks)
    await zuul.gone(node_id)
    assert not await admin.get(f"/api/v1/namespaces/{make_site.namespace(node_id)}/pods/pod")
    assert await zuul.node(other["nodes"][0]) is not None


async def test_a_dead_executors_node_goes(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label()))
    request_id = await zuul.submit("pod")
    await zuul.answered(request_id)
    locks = await zuul.accept(request_id)
    for lock in locks.values():
        await zuul.unlock(lock)  # In use, and nobody has it.
    await zuul.gone(*locks)


async def test_a_held_node_stays_until_it_is_marked_used(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label()))
    request_id = await zuul.submit("pod")
    await zuul.answered(request_id)
    ((node_id, lock),) = (await zuul.accept(request_id)).items()
    hold = {"hold_job": "t p j r", "comment": "debugging", "hold_expiration": 3600}
    await zuul.set_node(node_id, state="hold", a_later_key=[1], **hold)
    await zuul.unlock(lock)
    await zuul.use_and_return(await zuul.submit("pod"))
    node = await zuul.node(node_id)
    assert node is not None
    assert node["state"] == "hold"
    assert {key: node[key] for key in hold} == hold
    await zuul.set_node(node_id, state="used")
    await zuul.gone(node_id)


async def test_many_requests_at_once_are_all_served(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label()))
    ids = [await zuul.submit("pod") for _ in range(20)]
    nodes = [(await zuul.answered(request_id))["nodes"] for request_id in ids]
    assert len({node for (node,) in nodes}) == 20


async def test_pools_register_as_nodepools_do(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    site = make_site(namespace_label(), pod_label(), pool={"priority": 7})
    await launchers.start(site)
    (component,) = await zuul.components()
    assert component["kind"] == "pool"
    assert component["model_api"] == 0
    assert component["state"] == "running"
    assert component["priority"] == 7
    assert component["paused"] is False
    assert component["provider_name"] == "local"
    assert component["supported_labels"] == ["namespace", "pod"]
    assert component["name"] == site.settings().pools[0].name
    assert component["name"] in component["id"]
    assert component["hostname"]
