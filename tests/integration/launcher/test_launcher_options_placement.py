"""Resources, placement, workload and profiles, seen in what the API server stored of a pod."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from harness.api import Object

from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import IMAGE, Options, SiteMaker, pod_label
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
LINUX = {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
V100 = {"key": "nvidia.com/gpu", "operator": "Equal", "value": "v100", "effect": "NoSchedule"}


def container(pod: Object) -> Object:
    (found,) = pod["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def both(pod: Object) -> tuple[Any, Any]:
    """Requests and limits."""
    resources = container(pod)["resources"]
    return resources.get("requests"), resources.get("limits")


def terms(pod: Object) -> Any:
    return pod["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]


def own_env(pod: Object) -> list[Object]:
    return [entry for entry in container(pod)["env"] if not entry["name"].startswith("NODEPOOL_")]


def about_pod(pod: Object) -> dict[str, str]:
    """What a container is told about its pod, by where the value comes from."""
    return {
        entry["name"]: entry.get("value") or entry["valueFrom"]["fieldRef"]["fieldPath"]
        for entry in container(pod)["env"]
    }


def absent(*keys: str) -> list[Object]:
    return [{"key": key, "operator": "DoesNotExist"} for key in keys]


INFO = {
    "NODEPOOL_WORKLOAD": "1",
    "NODEPOOL_POD_NAME": "metadata.name",
    "NODEPOOL_POD_NAMESPACE": "metadata.namespace",
    "NODEPOOL_POD_ID": "metadata.uid",
    "NODEPOOL_NODE_IP": "status.hostIP",
}

PROFILES: list[Options] = [
    {"name": "small", "resources": {"cpu": 1, "mem": "64Mi"}, "working-dir": "/small"},
    {"name": "1xa100", "profile": "small", "gpu": 1, "gpu-vendor": "nvidia"},
]

OPTIONS: dict[str, tuple[Options, Callable[[Object], object], object]] = {
    # DigitalHub's pages.
    "resources-apart": (
        {
            "resources": {
                "cpu": {"requests": "2", "limits": "4"},
                "mem": {"requests": "4Gi", "limits": "8Gi"},
            }
        },
        both,
        ({"cpu": "2", "memory": "4Gi"}, {"cpu": "4", "memory": "8Gi"}),
    ),
    "resources": (
        {"resources": {"cpu": "2", "mem": "4Gi", "gpu": "1"}, "gpu-vendor": "nvidia"},
        both,
        ({"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"},) * 2,
    ),
    "memory-requested": (
        {"resources": {"mem": {"requests": "64Mi"}}},
        both,
        ({"memory": "64Mi"}, None),
    ),
    "gpu-limit": (
        {"resources": {"gpu": {"limits": "1"}}, "gpu_vendor": "nvidia"},
        both,
        ({"nvidia.com/gpu": "1"},) * 2,
    ),
    "disk": ({"resources": {"disk": "10M"}}, both, ({"ephemeral-storage": "10M"},) * 2),
    "selector-list": (
        {"node_selector": [{"key": "kubernetes.io/os", "value": "linux"}]},
        lambda pod: pod["spec"]["nodeSelector"],
        {"kubernetes.io/os": "linux"},
    ),
    "selector-pair": (
        {"node_selector": {"key": "kubernetes.io/os", "value": "linux"}},
        lambda pod: pod["spec"]["nodeSelector"],
        {"kubernetes.io/os": "linux"},
    ),
    "tolerations": (
        {"tolerations": [V100]},
        lambda pod: pod["spec"]["tolerations"][0],
        V100,
    ),
    "toleration-seconds": (
        {"tolerations": [{**V100, "effect": "NoExecute", "toleration_seconds": 300}]},
        lambda pod: pod["spec"]["tolerations"][0],
        {**V100, "effect": "NoExecute", "tolerationSeconds": 300},
    ),
    "affinity": (
        {
            "affinity": {
                "node_affinity": {
                    "required_during_scheduling_ignored_during_execution": {
                        "node_selector_terms": [{"match_expressions": [LINUX]}]
                    }
                }
            }
        },
        terms,
        [{"matchExpressions": [LINUX]}],
    ),
    "envs": (
        {"envs": [{"name": "ENV_NAME", "value": "value"}, {"name": "env-name", "value": "value"}]},
        own_env,
        [{"name": "ENV_NAME", "value": "value"}, {"name": "env-name", "value": "value"}],
    ),
    "profile": (
        {"profile": "1xa100", "working-dir": "/own"},
        lambda pod: (*both(pod), container(pod)["workingDir"]),
        (*({"cpu": "1", "memory": "64Mi", "nvidia.com/gpu": "1"},) * 2, "/own"),
    ),
    # Metaflow's.
    "selector-text": (
        {"node_selector": "kubernetes.io/os=linux"},
        lambda pod: pod["spec"]["nodeSelector"],
        {"kubernetes.io/os": "linux"},
    ),
    "gpu-vendor": (
        {"gpu": 1, "gpu-vendor": "nvidia"},
        both,
        ({"nvidia.com/gpu": "1"},) * 2,
    ),
    "no-gpu": (
        {"gpu": 0},
        lambda pod: (*both(pod), terms(pod)),
        (
            None,
            None,
            [{"matchExpressions": absent("nvidia.com/gpu.present", "amd.com/gpu.present")}],
        ),
    ),
    "no-gpu-there": (
        {
            "gpu": 0,
            "gpu-vendor": "nvidia",
            "affinity": {
                "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [LINUX]}]}}
            },
        },
        terms,
        [{"matchExpressions": [LINUX, *absent("nvidia.com/gpu.present")]}],
    ),
    "compute-pool": (
        {"compute-pool": "linux"},
        lambda pod: pod["spec"]["nodeSelector"],
        {"kubernetes.io/os": "linux"},
    ),
    "guaranteed": (
        {"qos": "Guaranteed", "cpu": 0.1, "memory": 32},
        lambda pod: (pod["status"]["qosClass"], *both(pod)),
        ("Guaranteed", *({"cpu": "100m", "memory": "32Mi"},) * 2),
    ),
    "burstable": (
        {"qos": "Burstable", "cpu": 0.1, "memory": 32},
        lambda pod: (pod["status"]["qosClass"], *both(pod)),
        ("Burstable", {"cpu": "100m", "memory": "32Mi"}, None),
    ),
    "best-effort": (
        {"qos": "BestEffort"},
        lambda pod: (pod["status"]["qosClass"], *both(pod)),
        ("BestEffort", None, None),
    ),
    "pod-info-env": ({}, about_pod, INFO),
    "no-pod-info-env": ({"pod-info-env": False}, lambda pod: "env" in container(pod), False),
    # The project's own.
    "command": (
        {"command": ["sleep"], "args": ["1d"], "working-dir": "/tmp"},
        lambda pod: [container(pod)[key] for key in ("command", "args", "workingDir")],
        [["sleep"], ["1d"], "/tmp"],
    ),
}


@pytest.fixture
async def classes(admin: Admin, make_site: SiteMaker) -> AsyncIterator[dict[str, str]]:
    """A RuntimeClass and a PriorityClass, as they are called here."""
    name = f"test-{make_site.pool}"
    kinds: dict[str, tuple[str, Object]] = {
        "runtime-class": (
            "/apis/node.k8s.io/v1/runtimeclasses",
            {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": "runc"},
        ),
        "priority-class": (
            "/apis/scheduling.k8s.io/v1/priorityclasses",
            {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 7},
        ),
    }
    for path, body in kinds.values():
        await admin.call("POST", path, {**body, "metadata": {"name": name}})
    yield dict.fromkeys(kinds, name)
    for path, _ in kinds.values():
        await admin.call("DELETE", f"{path}/{name}")


async def pods_of(zuul: Zuul, admin: Admin, request_id: str) -> dict[str, Object]:
    """The pod of each node of a fulfilled request, by label."""
    found = {}
    for node_id in (await zuul.answered(request_id))["nodes"]:
        node = await zuul.node(node_id)
        assert node is not None
        pod = await admin.pod(node["external_id"], node["interface_ip"])
        assert pod is not None
        found[node["type"][0]] = pod
    return found


async def test_placement_and_resources_are_in_the_stored_pod(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    classes: dict[str, str],
) -> None:
    labels = [pod_label(name) | options for name, (options, _, _) in OPTIONS.items()]
    site = make_site(
        *labels,
        pod_label("classes") | classes,
        provider={"compute-pool-key": "kubernetes.io/os"},
        top={"profiles": PROFILES},
    )
    await launchers.start(site)
    found = await pods_of(zuul, admin, await zuul.submit("classes", *OPTIONS))
    seen = {name: look(found[name]) for name, (_, look, _) in OPTIONS.items()}
    assert seen == {name: expected for name, (_, _, expected) in OPTIONS.items()}
    spec = found["classes"]["spec"]
    assert spec["runtimeClassName"] == classes["runtime-class"]
    assert (spec["priorityClassName"], spec["priority"]) == (classes["priority-class"], 7)


async def test_a_pools_defaults_place_its_pods(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    defaults = {
        "default-label-profile": "small",
        "default-label-tolerations": [V100],
        "default-label-env": [{"name": "A", "value": "pool"}],
        "default-label-qos": "Burstable",
        "default-label-resources": {"cpu": 3, "disk": "10M"},
    }
    own = pod_label("own", resources={"cpu": "500m"}, env=[{"name": "A", "value": "own"}])
    site = make_site(pod_label("plain"), own, pool=defaults, top={"profiles": PROFILES})
    await launchers.start(site)
    request_id = await zuul.submit("plain", "own")
    found = await pods_of(zuul, admin, request_id)
    plain = {"cpu": "1", "memory": "64Mi", "ephemeral-storage": "10M"}
    assert both(found["plain"]) == (plain, None)
    assert both(found["own"]) == ({**plain, "cpu": "500m"}, None)
    assert {name: own_env(pod)[0]["value"] for name, pod in found.items()} == {
        "plain": "pool",
        "own": "own",
    }
    assert all(V100 in pod["spec"]["tolerations"] for pod in found.values())
    nodes = [await zuul.node(node_id) for node_id in (await zuul.answered(request_id))["nodes"]]
    counted = [node["resources"]["cores"] for node in nodes if node]
    assert counted == [1, 0.5]
    assert container(found["plain"])["image"] == IMAGE
