"""What a label has mounted: as the API server stored it, and what is in the node's namespace."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness.api import Object

from tests.integration.launcher.test_launcher_labels import container, mounts, stored, volumes
from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import SiteMaker, namespace_label, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

POLICIES = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies"
CLAIMS = "/api/v1/namespaces/{}/persistentvolumeclaims"


@pytest.fixture
async def storage_class(admin: Admin, make_site: SiteMaker) -> AsyncIterator[str]:
    """A class with volumes to bind; the cluster has nothing that would make some."""
    name = f"disks-{make_site.chroot[-8:]}"
    paths = [f"/api/v1/persistentvolumes/{name}-{number}" for number in range(5)]
    for path in paths:
        spec = {
            "storageClassName": name,
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": "/nowhere"},
        }
        metadata = {"name": path.rpartition("/")[2]}
        await admin.call("POST", "/api/v1/persistentvolumes", {"metadata": metadata, "spec": spec})
    yield name
    for path in paths:
        await admin.call("DELETE", path)


@pytest.fixture
async def sources(admin: Admin, make_site: SiteMaker) -> AsyncIterator[str]:
    """A namespace with a Secret and a ConfigMap, as an admin keeps them."""
    name = f"sources-{make_site.chroot[-8:]}"
    await admin.create_namespace(name, {})
    data = {"token": base64.b64encode(b"hidden").decode()}
    for kind, body in (
        ("secrets", {"metadata": {"name": "secret-name-on-k8s"}, "data": data}),
        ("configmaps", {"metadata": {"name": "config-map-name-on-k8s"}, "data": {"a": "b"}}),
    ):
        await admin.call("POST", f"/api/v1/namespaces/{name}/{kind}", body)
    yield name
    await admin.delete_namespace(name)


def claim_of(claim: Object) -> tuple[Any, ...]:
    spec = claim["spec"]
    return spec["accessModes"], spec["resources"]["requests"]["storage"], spec["storageClassName"]


async def test_volume_claims_are_created_bound_and_mounted(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, storage_class: str
) -> None:
    made = {
        "volume_type": "persistent_volume_claim",
        "name": "my-pvc",
        "mount_path": "/data",
        "spec": {"size": "1Gi", "storage_class": storage_class},
    }
    theirs = {
        "volume_type": "persistent_volume_claim",
        "name": "theirs",
        "mount_path": "/theirs",
        "spec": {"claim_name": "pvc-name-on-k8s"},
    }
    passing = {
        "volume_type": "ephemeral",
        "name": "tmp-ephemeral",
        "mount_path": "/tmp",
        "spec": {"size": "500Mi", "storage_class": storage_class},
    }
    shared = {"size": "2Gi", "access_modes": ["ReadWriteMany"], "storage_class": storage_class}
    pod = pod_label(
        volumes=[made, theirs, passing],
        persistent_volume_claims={"by-path": {"path": "/by-path", **shared}},
    )
    space_label = namespace_label(
        persistent_volume_claims={"results": shared},
        pod_security="restricted",
        network_policy="deny-ingress",
    )
    await launchers.start(make_site(pod, space_label))
    request_id = await zuul.submit("pod", "namespace")
    names = await eventually(lambda: _names(zuul), "both nodes have their records")
    namespace, space = (make_site.namespace(names[label]) for label in ("pod", "namespace"))
    claims = CLAIMS.format(namespace)
    # Each namespace is new: a claim without a size is for something else to make.
    await eventually(lambda: admin.pod(namespace), "the pod is there")
    theirs_spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": storage_class,
        "resources": {"requests": {"storage": "1Gi"}},
    }
    await admin.call("POST", claims, {"metadata": {"name": "pvc-name-on-k8s"}, "spec": theirs_spec})
    found, _, _ = (await stored(zuul, admin, request_id))["pod"]
    assert {mount["name"]: mount["mountPath"] for mount in mounts(found)} == {
        "my-pvc": "/data",
        "theirs": "/theirs",
        "tmp-ephemeral": "/tmp",
        "claim": "/by-path",
    }
    sources = {volume.pop("name"): volume for volume in volumes(found)}
    template = sources.pop("tmp-ephemeral")["ephemeral"]["volumeClaimTemplate"]
    assert claim_of(template) == (["ReadWriteOnce"], "500Mi", storage_class)
    assert sources == {
        name: {"persistentVolumeClaim": {"claimName": claim}}
        for name, claim in (
            ("my-pvc", "my-pvc"),
            ("theirs", "pvc-name-on-k8s"),
            ("claim", "by-path"),
        )
    }
    made_claims = {
        each["metadata"]["name"]: each for each in (await admin.call("GET", claims))["items"]
    }
    assert claim_of(made_claims["my-pvc"]) == (["ReadWriteOnce"], "1Gi", storage_class)
    assert claim_of(made_claims["by-path"]) == (["ReadWriteMany"], "2Gi", storage_class)
    assert {each["status"]["phase"] for each in made_claims.values()} == {"Bound"}
    held = await admin.namespace(space)
    assert held is not None
    assert held["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    (policy,) = (await admin.call("GET", POLICIES.format(space)))["items"]
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    (claim,) = (await admin.call("GET", CLAIMS.format(space)))["items"]
    assert claim["metadata"]["name"] == "results"
    assert claim_of(claim) == (["ReadWriteMany"], "2Gi", storage_class)


async def _names(zuul: Zuul) -> dict[str, str] | None:
    found = {node["type"][0]: node_id for node_id, node in (await zuul.nodes()).items()}
    return found if len(found) == 2 else None


async def test_volumes_in_memory_and_copies_are_stored_and_counted(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, sources: str
) -> None:
    short = [
        {
            "volume_type": "empty_dir",
            "name": "my-empty-dir",
            "mount_path": "/data",
            "spec": {"size_limit": "1Gi"},
        },
        {
            "volume_type": "config_map",
            "name": "my-config-map",
            "mount_path": "/settings",
            "spec": {"name": "config-map-name-on-k8s"},
        },
        {
            "volume_type": "secret",
            "name": "my-secret",
            "mount_path": "/secret",
            "spec": {"secret_name": "secret-name-on-k8s"},
        },
    ]
    labels = [
        pod_label("short", volumes=short),
        pod_label(
            "memory",
            memory=512,
            memory_limit=1024,
            shared_memory=64,
            tmpfs={"tempdir": True, "path": "/scratch"},
        ),
        pod_label("half", memory=512, tmpfs=True),
        pod_label("unlimited", shared_memory=64, tmpfs={"size": 32}),
    ]
    await launchers.start(make_site(*labels, provider={"source-namespace": sources}))
    names = [label["name"] for label in labels]
    found = await stored(zuul, admin, await zuul.submit(*names))
    pod, namespace, _ = found["short"]
    assert {volume.pop("name"): volume for volume in volumes(pod)} == {
        "my-empty-dir": {"emptyDir": {"sizeLimit": "1Gi"}},
        "my-config-map": {"configMap": {"name": "config-map-name-on-k8s", "defaultMode": 420}},
        "my-secret": {"secret": {"secretName": "secret-name-on-k8s", "defaultMode": 420}},
    }
    assert [mount["mountPath"] for mount in mounts(pod)] == ["/data", "/settings", "/secret"]
    inside = f"/api/v1/namespaces/{namespace['metadata']['name']}"
    secret = await admin.call("GET", f"{inside}/secrets/secret-name-on-k8s")
    assert base64.b64decode(secret["data"]["token"]) == b"hidden"
    settings = await admin.call("GET", f"{inside}/configmaps/config-map-name-on-k8s")
    assert settings["data"] == {"a": "b"}

    pod, _, _ = found["memory"]
    in_memory = {volume["name"]: volume["emptyDir"] for volume in volumes(pod)}
    assert in_memory == {
        "shared-memory": {"medium": "Memory", "sizeLimit": "64Mi"},
        "tmpfs": {"medium": "Memory", "sizeLimit": "256Mi"},
    }
    assert [mount["mountPath"] for mount in mounts(pod)] == ["/dev/shm", "/scratch"]
    assert {"name": "TMPDIR", "value": "/scratch"} in container(pod)["env"]
    assert [mount["mountPath"] for mount in mounts(found["half"][0])] == ["/metaflow_temp"]
    # The request and the volumes, at most the limit; without memory the volumes alone.
    assert {name: found[name][2]["resources"]["ram"] for name in names} == {
        "short": 0,
        "memory": 512 + 64 + 256,
        "half": 512,
        "unlimited": 64 + 32,
    }
