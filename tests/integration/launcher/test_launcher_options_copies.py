"""Copies of Secrets and ConfigMaps, service accounts, replicas and ready-checks, at work."""

import base64
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness.api import Object

from nodepool_k8s.kubernetes import attempt
from tests.support.admin import MANUAL, Admin
from tests.support.launchers import Launchers
from tests.support.site import SiteMaker, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

PASSWORD = "a-password-nobody-may-see"
REGISTRY = {"auths": {"registry.example.org": {"auth": "c29tZWJvZHk6c29tZXRoaW5n"}}}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Originals:
    """A namespace with what is copied."""

    def __init__(self, admin: Admin, name: str) -> None:
        self.admin = admin
        self.name = name

    async def put(self, resource: str, name: str, **content: Any) -> None:
        body = {"metadata": {"name": name}, **content}
        await self.admin.call("POST", f"/api/v1/namespaces/{self.name}/{resource}", body)

    async def change(self, resource: str, name: str, **content: Any) -> None:
        path = f"/api/v1/namespaces/{self.name}/{resource}/{name}"
        await self.admin.call("PATCH", path, content, "application/merge-patch+json")

    async def drop(self, resource: str, name: str) -> None:
        await self.admin.call("DELETE", f"/api/v1/namespaces/{self.name}/{resource}/{name}")


@pytest.fixture
async def originals(admin: Admin, make_site: SiteMaker) -> AsyncIterator[Originals]:
    name = f"build-{make_site.chroot[-8:]}"
    await admin.create_namespace(name, {})
    yield Originals(admin, name)
    await admin.delete_namespace(name)


async def in_namespace(admin: Admin, namespace: str, resource: str) -> dict[str, Object]:
    found = await admin.call("GET", f"/api/v1/namespaces/{namespace}/{resource}")
    return {entry["metadata"]["name"]: entry for entry in found["items"]}


async def nodes_of(zuul: Zuul, request_id: str) -> dict[str, Object]:
    """The nodes of a fulfilled request, by label."""
    found = [await zuul.node(node_id) for node_id in (await zuul.answered(request_id))["nodes"]]
    return {node["type"][0]: node for node in found if node is not None}


async def test_what_a_label_names_is_copied_into_the_nodes_namespace(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    originals: Originals,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    password = {"PASSWORD": encoded(PASSWORD)}
    await originals.put("secrets", "creds", data=password, type="example.org/creds")
    await originals.put("configmaps", "settings", data={"MODE": "ci"}, binaryData={"b": "AAE="})
    docker = {".dockerconfigjson": encoded(str(REGISTRY).replace("'", '"'))}
    kind = "kubernetes.io/dockerconfigjson"
    await originals.put("secrets", "registry", data=docker, type=kind)
    files = {
        "volume_type": "secret",
        "name": "files",
        "mount_path": "/creds",
        "spec": {"secret_name": "creds"},
    }
    label = pod_label(
        "full",
        secrets=[{"name": "creds", "namespace": originals.name}],
        config_maps=["settings"],
        image_pull_secrets=["registry"],
        service_account="robot",
        volumes=[files],
    )
    space = namespace_label("space", secrets=["creds"], service_account="robot")
    provider = {"source-namespace": originals.name}
    await launchers.start(make_site(label, space, provider=provider))
    nodes = await nodes_of(zuul, await zuul.submit("full", "space"))

    name = nodes["full"]["external_id"]
    pod = await admin.pod(name, "full")
    assert pod is not None
    (container,) = pod["spec"]["containers"]
    assert container["envFrom"] == [
        {"configMapRef": {"name": "settings"}},
        {"secretRef": {"name": "creds"}},
    ]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["spec"]["serviceAccountName"] == "robot"
    assert "robot" in await in_namespace(admin, name, "serviceaccounts")
    secrets = await in_namespace(admin, name, "secrets")
    assert secrets["creds"]["data"] == password
    assert secrets["creds"]["type"] == "example.org/creds"
    assert secrets["registry"]["data"] == docker
    assert secrets["registry"]["type"] == kind
    settings = (await in_namespace(admin, name, "configmaps"))["settings"]
    assert (settings["data"], settings["binaryData"]) == ({"MODE": "ci"}, {"b": "AAE="})
    deployment = await zuul.deployment()
    assert settings["metadata"]["labels"]["nodepool-k8s/deployment"] == deployment

    name = nodes["space"]["external_id"]
    assert (await in_namespace(admin, name, "secrets"))["creds"]["data"] == password
    assert "robot" in await in_namespace(admin, name, "serviceaccounts")
    assert await admin.pods(name) == []

    # Kept current by its watch, which read it once.
    await originals.change("secrets", "creds", data={"PASSWORD": encoded("another")})

    async def is_new() -> bool:
        node = (await nodes_of(zuul, await zuul.submit("full")))["full"]
        copied = (await in_namespace(admin, node["external_id"], "secrets"))["creds"]
        return bool(copied["data"] == {"PASSWORD": encoded("another")})

    await eventually(is_new, "a node with the changed Secret")
    for secret in (PASSWORD, encoded(PASSWORD), encoded("another"), docker[".dockerconfigjson"]):
        assert secret not in caplog.text


async def reasons(zuul: Zuul, label: str) -> str:
    """Why a request for that label fails."""
    request = await zuul.answered(await zuul.submit(label), "failed")
    return "; ".join(request["nodepool_k8s"]["reasons"])


async def test_a_missing_or_unfit_source_fails_the_launch(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, originals: Originals
) -> None:
    await originals.put("secrets", "registry", data={"token": encoded(PASSWORD)})
    lacking = pod_label("lacking", config_maps=["later"])
    unfit = pod_label("unfit", image_pull_secrets=["registry"])
    await launchers.start(make_site(lacking, unfit, provider={"source-namespace": originals.name}))
    assert f"ConfigMap {originals.name}/later does not exist" in await reasons(zuul, "lacking")
    told = await reasons(zuul, "unfit")
    assert f"Secret {originals.name}/registry is of the type Opaque" in told
    assert PASSWORD not in told

    await originals.put("configmaps", "later", data={"A": "1"})
    await nodes_of(zuul, await zuul.submit("lacking"))
    docker = {".dockerconfigjson": encoded("{}")}
    await originals.drop("secrets", "registry")
    await originals.put("secrets", "registry", data=docker, type="kubernetes.io/dockerconfigjson")

    async def is_fit() -> bool:
        request = await zuul.answered(await zuul.submit("unfit"), "failed", "fulfilled")
        return bool(request["state"] == "fulfilled")

    await eventually(is_fit, "a node with the Secret that is fit")


async def test_a_node_of_three_replicas_is_ready_when_all_are(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    label = pod_label("trio", replicas=3, cpu=1, memory=10, annotations=MANUAL)
    once = {"launch-retries": 1}
    await launchers.start(make_site(label, pool={"max-cores": 3}, provider=once))
    request_id = await zuul.submit("trio")
    (node_id,) = await zuul.building(request_id)
    namespace = make_site.namespace(node_id)
    names = ["trio", "trio-1", "trio-2"]

    async def pods() -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in await admin.pods(namespace))

    async def posted() -> bool:
        return await pods() == names

    await eventually(posted, "three pods")
    for name in ("trio-2", "trio"):
        await admin.make_ready(namespace, name)
    # All of the quota is taken: another node has to wait until this one is gone.
    second = await zuul.submit("trio")
    states = [await zuul.request(each) for each in (request_id, second)]
    assert [state and state["state"] for state in states] == ["pending", "requested"]
    await admin.make_ready(namespace, "trio-1")
    node = (await nodes_of(zuul, request_id))["trio"]
    assert node["interface_ip"] == node["connection_port"]["pod"] == "trio"
    assert node["resources"] == {"cores": 3, "ram": 30, "instances": 3}
    claimed = {"cores": 3000, "ram": 30000, "instances": 3000}
    assert await zuul.ledgers() == {f"local/{make_site.pool}": claimed}
    locks = await zuul.accept(request_id)
    await zuul.give_back(locks)
    (node_id,) = await zuul.building(second)
    assert await pods() == []

    # One that fails fails the attempt, and is named.
    namespace = make_site.namespace(node_id)
    await eventually(posted, "three pods")
    await admin.make_ready(namespace, "trio")
    await admin.set_status(namespace, {"phase": "Failed", "reason": "Evicted"}, "trio-1")
    request = await zuul.answered(second, "failed")
    (reason,) = request["nodepool_k8s"]["reasons"]
    assert "pod trio-1: the pod ended (Failed): Evicted" in reason


async def test_a_ready_node_that_lost_a_replica_is_not_handed_out(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(pod_label("pair", replicas=2)))
    request_id = await zuul.submit("pair")
    (node,) = (await nodes_of(zuul, request_id)).values()
    first = node["external_id"]
    await zuul.cancel(request_id)

    async def is_free() -> bool:
        return [each["allocated_to"] for each in (await zuul.nodes()).values()] == [None]

    await eventually(is_free, "the node free")
    await admin.delete_pod(first, "pair-1")
    (node,) = (await nodes_of(zuul, await zuul.submit("pair"))).values()
    assert node["external_id"] != first
    assert len(await admin.pods(node["external_id"])) == 2


async def test_a_failed_ready_check_fails_the_attempt(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "CHECK_SECONDS", 0.5)
    label = pod_label("checked", ready_check="exec")
    await launchers.start(make_site(label, provider={"launch-retries": 1}))
    # No kubelet is behind a fake node, so no command can be run.
    assert "the ready-check failed: true in pod checked: " in await reasons(zuul, "checked")
