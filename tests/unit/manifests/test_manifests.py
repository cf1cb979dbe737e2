"""What one attempt at one node creates."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nodepool_k8s import manifests, names
from nodepool_k8s.config.settings import (
    Label,
    Placement,
    Pool,
    Provider,
    Security,
    Volumes,
    Workload,
)
from nodepool_k8s.manifests import NodeObjects
from nodepool_k8s.model import LabelType

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
UUID = "7c0ee7a4-3fd1-4b1c-9d0a-2f1f2a8b9f10"


def objects_of(
    label_name: str = "pod-fedora",
    kind: LabelType = LabelType.POD,
    pool_name: str = "main",
    *,
    node_id: str = "0000000042",
    attempt: int = 0,
    allocated: bool = False,
    dynamic: dict[str, str] | None = None,
    **options: Any,
) -> NodeObjects:
    label = Label(name=label_name, type=kind, **options)
    pool = Pool(provider="kube spray", name=pool_name, labels={label_name: label})
    return NodeObjects(
        deployment=UUID,
        provider=Provider(name="kube spray", context="admin", pools=(pool,)),
        pool=pool,
        label=label,
        node_id=node_id,
        attempt=attempt,
        dynamic_labels=dynamic or {},
        allocated=allocated,
    )


def container_of(objects: NodeObjects) -> dict[str, Any]:
    (container,) = objects.pod()["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_a_namespace_is_named_after_pool_node_and_attempt() -> None:
    assert objects_of().namespace_name == "main-0000000042"
    assert objects_of(attempt=2).namespace_name == "main-0000000042-2"
    assert manifests.namespace_name("main", "0000000042", 1) == "main-0000000042-1"


def test_our_labels_cannot_be_hidden() -> None:
    hiding = dict.fromkeys(objects_of().own_labels(), "hidden")
    objects = objects_of(labels={**hiding, "team": "a"}, dynamic={**hiding, "job": "b"})
    labels = objects.namespace()["metadata"]["labels"]
    assert labels == {
        "team": "a",
        "job": "b",
        "nodepool_node_id": "0000000042",
        "nodepool_provider_name": "kube-spray",
        "nodepool_pool_name": "main",
        "nodepool_node_label": "pod-fedora",
        "app.kubernetes.io/managed-by": "nodepool-k8s",
        "nodepool-k8s/deployment": UUID,
    }
    assert objects.pod()["metadata"]["labels"] == labels


def test_every_object_carries_the_deployment() -> None:
    objects = objects_of()
    made = [
        objects.namespace(),
        objects.service_account("default"),
        objects.root_ca("pem"),
        objects.role(),
        objects.role_binding("ClusterRole"),
        objects.pod(),
        manifests.token_secret(UUID),
    ]
    for manifest in made:
        assert manifest["metadata"]["labels"]["nodepool-k8s/deployment"] == UUID, manifest["kind"]


def test_a_plain_pod_is_left_to_the_clusters_defaults() -> None:
    plain = objects_of(image="docker.io/fedora:28", workload=Workload(pod_info_env=False))
    assert plain.pod() == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "pod-fedora",
            "labels": objects_of().own_labels(),
            "annotations": {},
        },
        "spec": {
            "containers": [
                {
                    "name": "pod-fedora",
                    "image": "docker.io/fedora:28",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["/bin/sh", "-c"],
                    "args": ["trap 'exit 0' TERM; while true; do sleep 86400 & wait; done"],
                }
            ],
            "restartPolicy": "Never",
        },
    }


def test_every_option_is_in_the_pod() -> None:
    objects = objects_of(
        image="i",
        image_pull="Always",
        workload=Workload(env=(("A", "1"), ("B", "")), pod_info_env=False),
        placement=Placement(node_selector={"disk": "ssd"}, scheduler_name="mine"),
        security=Security(privileged=False),
        volumes=Volumes(
            raw=({"name": "v", "emptyDir": {}},),
            mounts=({"name": "v", "mountPath": "/v"},),
        ),
        annotations={"note": "x"},
    )
    container = container_of(objects)
    assert container["imagePullPolicy"] == "Always"
    assert container["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": ""}]
    assert container["volumeMounts"] == [{"name": "v", "mountPath": "/v"}]
    assert container["securityContext"] == {"privileged": False}
    spec = objects.pod()["spec"]
    assert spec["nodeSelector"] == {"disk": "ssd"}
    assert spec["schedulerName"] == "mine"
    assert spec["volumes"] == [{"name": "v", "emptyDir": {}}]
    assert objects.pod()["metadata"]["annotations"] == {"note": "x"}
    assert "annotations" not in objects.namespace()["metadata"]


@pytest.mark.parametrize(
    ("options", "resources"),
    [
        ({}, None),
        (
            {"cpu": 2, "memory": 512, "storage": 100},
            {"requests": {"cpu": "2", "memory": "512Mi", "ephemeral-storage": "100M"}},
        ),
        (
            {"cpu": 0.5, "cpu_limit": 1.25, "memory": 1, "memory_limit": 2},
            {
                "requests": {"cpu": "500m", "memory": "1Mi"},
                "limits": {"cpu": "1250m", "memory": "2Mi"},
            },
        ),
        ({"cpu_limit": 1, "storage_limit": 5}, {"limits": {"cpu": "1", "ephemeral-storage": "5M"}}),
        ({"cpu": 0.0001}, {"requests": {"cpu": "1m"}}),
        (
            {"gpu": 2, "gpu_resource": "nvidia.com/gpu"},
            {"requests": {"nvidia.com/gpu": "2"}, "limits": {"nvidia.com/gpu": "2"}},
        ),
        # Counted by the quota alone, as in Nodepool.
        ({"extra_resources": {"licences": 3}}, None),
    ],
)
def test_resources(options: dict[str, Any], resources: dict[str, Any] | None) -> None:
    assert container_of(objects_of(**options)).get("resources") == resources


def test_a_raw_spec_goes_through_verbatim() -> None:
    spec = {"containers": [{"name": "c", "image": "i"}], "hostNetwork": True, "unknown": [1]}
    objects = objects_of(spec=spec, annotations={"note": "x"}, labels={"team": "a"})
    assert objects.pod()["spec"] == spec
    assert objects.pod()["metadata"]["annotations"] == {"note": "x"}
    assert objects.pod()["metadata"]["labels"]["team"] == "a"


def test_autoscalers_are_told_to_keep_an_allocated_node() -> None:
    assert objects_of().pod()["metadata"]["annotations"] == {}
    assert objects_of(allocated=True).pod()["metadata"]["annotations"] == {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    patch = manifests.reuse_patch(objects_of().label, {}, pod=True)
    assert patch["metadata"]["annotations"] == dict(manifests.DO_NOT_EVICT_ANNOTATIONS)


def test_the_labels_own_annotations_win() -> None:
    own = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}
    objects = objects_of(annotations=own, allocated=True)
    annotations = objects.pod()["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "true"
    patch = manifests.reuse_patch(objects.label, {}, pod=True)
    assert patch["metadata"]["annotations"] == {"karpenter.sh/do-not-disrupt": "true"}


def test_a_reused_node_gets_the_requests_labels_but_not_ours() -> None:
    labels = manifests.valid_dynamic_labels({"job": "unit", "nodepool_node_id": "1"})
    for pod in (True, False):
        patch = manifests.reuse_patch(objects_of().label, labels, pod=pod)
        assert patch["metadata"]["labels"] == {"job": "unit"}
    assert patch["metadata"]["annotations"] == {}


@pytest.mark.parametrize(
    ("namespace", "node_id"),
    [
        ("main-0000000007", "0000000007"),
        ("main-0000000007-1", "0000000007"),
        ("main-1-0000000007-12", "0000000007"),
        ("main", None),
        ("main-12", None),
    ],
)
def test_a_namespaces_name_tells_its_node(namespace: str, node_id: str | None) -> None:
    assert manifests.node_id_in(namespace) == node_id


def test_the_binding_names_the_role_of_the_labels_type() -> None:
    pod = objects_of().role_binding("ClusterRole")
    assert pod["roleRef"]["name"] == "nodepool-k8s-pod-access"
    namespace = objects_of(kind=LabelType.NAMESPACE).role_binding("Role")
    assert namespace["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "Role",
        "name": "nodepool-k8s-namespace-access",
    }
    assert namespace["subjects"] == [
        {"kind": "ServiceAccount", "name": "zuul-worker", "namespace": "main-0000000042"}
    ]
    assert objects_of().role()["rules"] == list(manifests.ACCESS_RULES[manifests.POD_ACCESS])


def test_the_shipped_manifest_has_the_same_access_roles() -> None:
    path = Path(__file__).parents[3] / "etc" / "kubernetes" / "rbac.yaml"
    shipped = [part for part in yaml.safe_load_all(path.read_text()) if part]
    roles = {part["metadata"]["name"]: part for part in shipped if part["kind"] == "ClusterRole"}
    for name in manifests.ACCESS_RULES:
        assert roles[name] == manifests.cluster_role(name)


def test_nothing_in_the_shipped_manifest_escalates() -> None:
    path = Path(__file__).parents[3] / "etc" / "kubernetes" / "rbac.yaml"
    for part in yaml.safe_load_all(path.read_text()):
        for rule in part.get("rules", ()):
            assert "escalate" not in rule["verbs"]
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "bind" not in rule["verbs"] or rule["resourceNames"]


@given(st.text(max_size=200), st.text(max_size=200))
def test_names_are_always_valid(pool_name: str, label_name: str) -> None:
    objects = objects_of(label_name, pool_name=pool_name, attempt=3)
    assert DNS_LABEL.fullmatch(objects.namespace_name)
    assert objects.namespace_name.endswith("-0000000042-3")
    assert DNS_SUBDOMAIN.fullmatch(objects.pod_name)
    assert DNS_LABEL.fullmatch(container_of(objects)["name"])
    for value in objects.own_labels().values():
        assert LABEL_VALUE.fullmatch(value)


@given(st.text())
def test_label_values_are_always_valid(text: str) -> None:
    assert LABEL_VALUE.fullmatch(names.valid_label_value(text))


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("a", True),
        ("a/b", True),
        ("example.com/A_b.c-d", True),
        ("x" * 63, True),
        ("x" * 64, False),
        ("", False),
        ("/a", False),
        ("a/", False),
        ("A.com/b", False),
        ("a/b/c", False),
        ("-a", False),
        ("a b", False),
        ("x" * 254 + "/a", False),
        # A part of the prefix is a DNS label: the former second copy of the rule took this.
        ("x" * 64 + ".example.com/a", False),
    ],
)
def test_label_keys(text: str, valid: bool) -> None:
    assert names.is_label_key(text) is valid
