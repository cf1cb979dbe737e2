"""Copies, accounts and replicas."""

from typing import Any

import pytest

from nodepool_k8s.config.settings import Copies, CopySource, Label, Pool, Provider
from nodepool_k8s.manifests import NodeObjects, outlives_pods, unfit
from nodepool_k8s.manifests.copies import REGISTRY_TYPES
from nodepool_k8s.model import LabelType, SourceContent

CREDS = CopySource("Secret", "build", "creds")
REGISTRY = CopySource("Secret", "build", "registry")
SETTINGS = CopySource("ConfigMap", "build", "settings")
PASSWORD = "cGFzc3dvcmQ="


def objects(kind: LabelType = LabelType.POD, **options: Any) -> NodeObjects:
    label = Label(name="pod", type=kind, image="i", **options)
    pool = Pool(provider="local", name="main", labels={"pod": label})
    provider = Provider(name="local", context=None, pools=(pool,))
    return NodeObjects("uuid", provider, pool, label, node_id="0000000001")


COPIES = Copies(
    env=(SETTINGS, CREDS), image_pull=(REGISTRY,), mounted=(CREDS,), service_account="robot"
)


def test_copies_are_made_before_the_pod_under_their_own_names() -> None:
    contents = {
        SETTINGS: SourceContent("", {"A": "1"}, {"B": "AA=="}),
        CREDS: SourceContent("example.org/creds", {"P": PASSWORD}),
        REGISTRY: SourceContent("kubernetes.io/dockerconfigjson", {".dockerconfigjson": "e30="}),
    }
    made = objects(copies=COPIES).before_pod(contents)
    assert [(resource, manifest["kind"]) for resource, manifest in made] == [
        ("configmaps", "ConfigMap"),
        ("secrets", "Secret"),
        ("secrets", "Secret"),
    ]
    names = [manifest["metadata"]["name"] for _, manifest in made]
    assert names == ["settings", "creds", "registry"]
    config_map, creds, registry = (manifest for _, manifest in made)
    assert (config_map["data"], config_map["binaryData"]) == ({"A": "1"}, {"B": "AA=="})
    assert "type" not in config_map
    assert (creds["data"], creds["type"]) == ({"P": PASSWORD}, "example.org/creds")
    assert "binaryData" not in creds
    assert registry["type"] == "kubernetes.io/dockerconfigjson"
    assert all(m["metadata"]["labels"]["nodepool-k8s/deployment"] == "uuid" for _, m in made)


@pytest.mark.parametrize("kind", ["", "Opaque", "kubernetes.io/service-account-token"])
def test_an_accounts_token_is_copied_as_any_secret(kind: str) -> None:
    content = {CREDS: SourceContent(kind, {"token": PASSWORD})}
    ((_, copied),) = objects(copies=Copies(env=(CREDS,))).before_pod(content)
    assert copied["type"] == "Opaque"


def test_the_pod_uses_what_was_copied() -> None:
    spec = objects(copies=COPIES).pod()["spec"]
    assert spec["containers"][0]["envFrom"] == [
        {"configMapRef": {"name": "settings"}},
        {"secretRef": {"name": "creds"}},
    ]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["serviceAccountName"] == "robot"
    assert objects(copies=COPIES).account == "robot"
    plain = objects().pod()["spec"]
    assert not {"imagePullSecrets", "serviceAccountName"} & plain.keys()
    assert "envFrom" not in plain["containers"][0]
    assert objects().account == "default"


def test_images_are_pulled_with_a_registrys_secret_alone() -> None:
    copies = Copies(image_pull=(REGISTRY,))
    assert "Secret build/registry is of the type Opaque" in unfit(copies, REGISTRY, SourceContent())
    for kind in REGISTRY_TYPES:
        assert unfit(copies, REGISTRY, SourceContent(kind)) == ""
    assert unfit(Copies(env=(REGISTRY,)), REGISTRY, SourceContent()) == ""


def test_what_a_source_holds_is_not_shown() -> None:
    assert PASSWORD not in repr(SourceContent("t", {"P": PASSWORD}, {"B": PASSWORD}))


def test_replicas_are_alike_but_for_their_names() -> None:
    pods = objects(replicas=3).pods()
    assert [pod["metadata"].pop("name") for pod in pods] == ["pod", "pod-1", "pod-2"]
    assert pods[0] == pods[1] == pods[2]
    assert objects().pod_names == ("pod",)
    assert len(objects().pods()) == 1


def test_what_outlives_its_pods() -> None:
    assert not outlives_pods(objects(copies=COPIES, replicas=3).label)
