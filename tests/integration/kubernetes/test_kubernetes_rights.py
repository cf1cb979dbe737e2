"""What the handed-out tokens may do, and what the launcher must be allowed to."""

import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from nodepool_k8s import manifests
from nodepool_k8s.config.settings import Copies, CopySource
from nodepool_k8s.errors import ApiError, MissingRights, SourceUnusable
from nodepool_k8s.kubernetes import rights
from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.cluster import Cluster
from nodepool_k8s.model import LabelType
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.integration.kubernetes.conftest import ByToken
    from tests.integration.kubernetes.nodebench import (
        Bench,
        make_node,
        may,
        write_kube_config,
    )
else:
    from nodebench import Bench, make_node, may, write_kube_config

pytestmark = pytest.mark.integration

MANIFEST = Path(__file__).parents[3] / "etc" / "kubernetes" / "rbac.yaml"
COPIES = MANIFEST.with_name("copies.yaml")
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Role": f"/apis/{manifests.RBAC}/v1/namespaces/{{namespace}}/roles",
    "RoleBinding": f"/apis/{manifests.RBAC}/v1/namespaces/{{namespace}}/rolebindings",
    "ClusterRole": f"/apis/{manifests.RBAC}/v1/clusterroles",
    "ClusterRoleBinding": f"/apis/{manifests.RBAC}/v1/clusterrolebindings",
}


# --- what requestors get ---------------------------------------------------------------------


async def test_the_token_of_a_pod_node(bench: Bench, cluster: Cluster, by_token: "ByToken") -> None:
    mine, access = await make_node(cluster, bench.objects())
    other, _ = await make_node(cluster, bench.objects())
    client = await by_token(access.token)

    for subresource in ("exec", "portforward", "attach"):
        for verb in ("get", "create"):
            assert await may(client, mine.name, verb, f"pods/{subresource}")
            assert not await may(client, other.name, verb, f"pods/{subresource}")
    assert await may(client, mine.name, "get", "pods/log")
    for verb in ("get", "list", "watch"):
        assert await may(client, mine.name, verb, "pods")

    for verb in ("create", "delete", "patch", "update", "deletecollection"):
        assert not await may(client, mine.name, verb, "pods")
    for resource in ("secrets", "configmaps", "serviceaccounts", "serviceaccounts/token"):
        for verb in ("get", "list", "create"):
            assert not await may(client, mine.name, verb, resource)
    assert not await may(client, mine.name, "create", "rolebindings", manifests.RBAC)
    assert not await may(client, "", "list", "namespaces")
    assert not await may(client, "", "list", "nodes")
    assert not await may(client, "kube-system", "get", "pods")

    # And not only by its own words.
    (pod,) = (await client.get(f"/api/v1/namespaces/{mine.name}/pods"))["items"]
    assert pod["metadata"]["name"] == "pod-fedora"
    for refused in (
        f"/api/v1/namespaces/{mine.name}/secrets",
        f"/api/v1/namespaces/{other.name}/pods",
        "/api/v1/namespaces",
    ):
        with pytest.raises(ApiError, match="403"):
            await client.get(refused)


async def test_the_token_of_a_namespace_node(
    bench: Bench, cluster: Cluster, by_token: "ByToken"
) -> None:
    mine, access = await make_node(cluster, bench.objects(LabelType.NAMESPACE))
    other, _ = await make_node(cluster, bench.objects(LabelType.NAMESPACE))
    client = await by_token(access.token)
    for rule in manifests.ACCESS_RULES[manifests.NAMESPACE_ACCESS]:
        (group,) = rule["apiGroups"]
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                assert await may(client, mine.name, verb, resource, group), (verb, resource)
            assert not await may(client, other.name, "get", resource, group)
    assert not await may(client, mine.name, "create", "rolebindings", manifests.RBAC)
    assert not await may(client, mine.name, "create", "roles", manifests.RBAC)
    assert not await may(client, mine.name, "create", "serviceaccounts/token")
    assert not await may(client, "", "get", "namespaces")
    configmap = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}}
    await client.post(f"/api/v1/namespaces/{mine.name}/configmaps", configmap)
    with pytest.raises(ApiError, match="403"):
        await client.post(f"/api/v1/namespaces/{other.name}/configmaps", configmap)


async def test_requestors_can_start_a_pod_at_once(
    bench: Bench, cluster: Cluster, by_token: "ByToken"
) -> None:
    mine, access = await make_node(cluster, bench.objects(LabelType.NAMESPACE))
    client = await by_token(access.token)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "first"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    await client.post(f"/api/v1/namespaces/{mine.name}/pods", pod)


# --- what the launcher needs ---------------------------------------------------------------------

Accounts = Callable[..., Awaitable[str]]


@pytest.fixture
async def account(
    admin: ApiClient, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Accounts]:
    """Make kube/config lead to a service account with those ClusterRoles; returns the context."""
    made: list[str] = []

    async def create(path: str, body: dict[str, Any]) -> None:
        try:
            await admin.post(path, body)
            made.append(f"{path}/{body['metadata']['name']}")
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    async def use(*documents: dict[str, Any]) -> str:
        for document in documents:
            metadata = document["metadata"]
            path = PATHS[document["kind"]].format(namespace=metadata.get("namespace"))
            await create(path, document)
        token = await admin.post(
            "/api/v1/namespaces/nodepool/serviceaccounts/nodepool-k8s/token",
            manifests.token_request(3600),
        )
        file = tmp_path / "account"
        context = write_kube_config(file, cluster, token["status"]["token"])
        monkeypatch.setenv("KUBECONFIG", str(file))
        return context

    yield use
    for path in reversed(made):
        if "/clusterrole" in path:
            await admin.delete(path)


def shipped() -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(MANIFEST.read_text()) if document]


def only(kind: str, *names: str) -> list[dict[str, Any]]:
    return [d for d in shipped() if d["kind"] == kind and d["metadata"]["name"] in names]


def bound(name: str, *rules: dict[str, Any]) -> list[dict[str, Any]]:
    """A role of the test's own for the launcher's account, with its binding."""
    metadata = {"name": name}
    return [
        {"kind": "ClusterRole", "metadata": metadata, "rules": list(rules)},
        {
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": manifests.RBAC, "kind": "ClusterRole", "name": name},
            "subjects": [
                {"kind": "ServiceAccount", "name": "nodepool-k8s", "namespace": "nodepool"}
            ],
        },
    ]


ACCOUNT = [d for d in shipped() if d["kind"] in ("Namespace", "ServiceAccount")]


def launcher_rules() -> list[dict[str, Any]]:
    (role,) = only("ClusterRole", "nodepool-k8s-launcher")
    rules = role["rules"]
    assert isinstance(rules, list)
    return rules


async def test_the_shipped_manifest_is_enough(bench: Bench, account: Accounts) -> None:
    context = await account(*shipped())
    launcher = await bench.cluster(context=context)
    for kind in LabelType:
        objects = bench.objects(kind)
        namespace, access = await make_node(launcher, objects)
        assert access.expires is not None
        assert await launcher.reader.events(namespace.name) == []
        if kind is LabelType.POD:
            patch = manifests.reuse_patch(objects.label, {"job": "next"}, pod=True)
            await launcher.creator.patch_pod(namespace.name, objects.pod_name, patch)
        patch = manifests.reuse_patch(objects.label, {"job": "next"}, pod=False)
        await launcher.creator.patch_namespace(namespace.name, patch)
        await launcher.deleter.delete_node(namespace.name, 1.0)
        await launcher.deleter.pods_gone(namespace.name)
    assert launcher.creator.role_kind == "ClusterRole"


async def test_missing_rights_are_named_with_the_manifest(bench: Bench, account: Accounts) -> None:
    few = [rule for rule in launcher_rules() if rule["resources"] != ["pods"]]
    context = await account(*ACCOUNT, *bound("few", *few))
    with pytest.raises(MissingRights) as missing:
        await bench.cluster(context=context)
    text = str(missing.value)
    assert "provider local" in text
    assert "create pods, delete pods, deletecollection pods" in text
    assert "namespaces" not in text
    assert rights.MANIFEST in text


async def test_rights_for_labels_are_needed_by_those_labels_alone(
    bench: Bench, admin: ApiClient, account: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    space = f"b{bench.deployment[:8]}"
    await admin.post("/api/v1/namespaces", {"metadata": {"name": space}})
    for resource, name in (("secrets", "registry"), ("configmaps", "settings")):
        body = {"metadata": {"name": name}, "data": {"A": "MQ=="}}
        await admin.post(f"/api/v1/namespaces/{space}/{resource}", body)
    named = Copies(
        env=(CopySource("Secret", space, "registry"), CopySource("ConfigMap", space, "settings"))
    )
    try:
        context = await account(*shipped())
        launcher = await bench.cluster(context=context)
        objects = bench.objects(copies=named)
        (pool,) = objects.provider.pools
        plain = dataclasses.replace(objects.label, name="plain", copies=Copies())
        labels = {"plain": plain, objects.label.name: objects.label}
        pool = dataclasses.replace(pool, labels=labels)
        provider = dataclasses.replace(objects.provider, context=context, pools=(pool,))
        launcher.serve(provider)
        await eventually(lambda: "for label pod-fedora of pool" in caplog.text)
        assert (
            f"may not create secrets, get secrets {space}/registry, list secrets {space}/registry"
            in caplog.text
        )
        assert (
            "bind the ClusterRole nodepool-k8s-label-options of etc/kubernetes/rbac" in caplog.text
        )
        assert "label plain" not in caplog.text
        await launcher.creator.create_namespace(objects)
        with pytest.raises(SourceUnusable, match="may not be read by the launcher's account"):
            await launcher.creator.create_pod(objects)
        await make_node(launcher, dataclasses.replace(bench.objects(), label=plain))

        # As the example has it, for that namespace.
        text = COPIES.read_text().replace("namespace: build", f"namespace: {space}")
        await account(*yaml.safe_load_all(text))
        caplog.clear()
        launcher.serve(provider)
        made, _ = await make_node(launcher, bench.objects(copies=named))
        copied = await admin.get(f"/api/v1/namespaces/{made.name}/secrets/registry")
        assert copied["data"] == {"A": "MQ=="}
        assert "for label" not in caplog.text
    finally:
        await admin.delete(f"/api/v1/namespaces/{space}")


async def test_without_token_requests_there_are_secrets(
    bench: Bench, account: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    rules = [dict(rule) for rule in launcher_rules()]
    for rule in rules:
        rule["resources"] = [r for r in rule["resources"] if r != "serviceaccounts/token"]
    (secrets,) = only("ClusterRole", "nodepool-k8s-token-secrets")
    access_roles = only("ClusterRole", *manifests.ACCESS_RULES)
    context = await account(*ACCOUNT, *access_roles, *bound("no-tokens", *rules, *secrets["rules"]))
    caplog.set_level(logging.WARNING)
    launcher = await bench.cluster(context=context)
    for _ in range(2):
        _, access = await make_node(launcher, bench.objects(LabelType.NAMESPACE))
        assert access.expires is None
    assert caplog.text.count("may not create serviceaccounts/token") == 1
    assert access.token not in caplog.text


async def test_roles_in_each_namespace_where_the_admin_wants_them(
    bench: Bench, cluster: Cluster, admin: ApiClient, by_token: "ByToken"
) -> None:
    launcher = await bench.cluster(access_role="namespace")
    namespace, access = await make_node(launcher, bench.objects())
    client = await by_token(access.token)
    assert await may(client, namespace.name, "create", "pods/exec")
    roles = await admin.get(f"/apis/{manifests.RBAC}/v1/namespaces/{namespace.name}/roles")
    assert [role["metadata"]["name"] for role in roles["items"]] == [manifests.POD_ACCESS]


async def test_roles_per_namespace_where_cluster_roles_are_forbidden(
    bench: Bench, admin: ApiClient, account: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    rules = [rule for rule in launcher_rules() if "bind" not in rule["verbs"]]
    # To make a Role one must have its rights, or a right to escalate that nobody should have.
    rules.append({"apiGroups": [manifests.RBAC], "resources": ["roles"], "verbs": ["create"]})
    rules += [r for d in manifests.ACCESS_RULES.values() for r in d]
    context = await account(*ACCOUNT, *bound("own-roles", *rules))
    for name in manifests.ACCESS_RULES:
        await admin.delete(f"{PATHS['ClusterRole']}/{name}")
    caplog.set_level(logging.WARNING)
    launcher = await bench.cluster(context=context)
    assert launcher.creator.role_kind == "Role"
    assert caplog.text.count("each namespace gets a Role of its own") == 1
    await make_node(launcher, bench.objects())


async def test_an_existing_cluster_role_is_never_changed(
    bench: Bench, cluster: Cluster, admin: ApiClient
) -> None:
    path = f"{PATHS['ClusterRole']}/{manifests.POD_ACCESS}"
    extended = await admin.get(path)
    rules = [*extended["rules"], {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]}]
    await admin.patch(path, {"rules": rules})
    try:
        await bench.cluster()
        assert (await admin.get(path))["rules"] == rules
    finally:
        await admin.patch(path, {"rules": extended["rules"]})
