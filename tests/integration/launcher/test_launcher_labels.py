"""Every option of the driver's page, seen in the object that the API server stored."""

from collections.abc import Callable
from typing import Any

import pytest
from harness.api import Object
from harness.requestor import zuul_request

from tests.support.admin import DEPLOYMENT, Admin
from tests.support.launchers import Launchers
from tests.support.site import IMAGE, Options, SiteMaker, namespace_label, pod_label, spec_label
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

Expected = Callable[[Object], object]
"""What of the stored object is looked at."""


def container(pod: Object) -> Object:
    (found,) = pod["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def requests(pod: Object) -> Object:
    found: Object = container(pod)["resources"]["requests"]
    return found


def limits(pod: Object) -> Object:
    found: Object = container(pod)["resources"]["limits"]
    return found


def volumes(pod: Object) -> list[Object]:
    return [entry for entry in pod["spec"]["volumes"] if "projected" not in entry]


def mounts(pod: Object) -> list[Object]:
    return [
        entry
        for entry in container(pod)["volumeMounts"]
        if "serviceaccount" not in entry["mountPath"]
    ]


SCRATCH = {"name": "scratch", "emptyDir": {"sizeLimit": "10Mi"}}
MOUNT = {"name": "scratch", "mountPath": "/scratch", "readOnly": True}

OPTIONS: dict[str, tuple[Options, Expected, object]] = {
    "name": ({}, lambda pod: (pod["metadata"]["name"], container(pod)["name"]), ("name", "name")),
    "image": ({}, lambda pod: container(pod)["image"], IMAGE),
    "image-pull-default": ({}, lambda pod: container(pod)["imagePullPolicy"], "IfNotPresent"),
    "image-pull": (
        {"image-pull": "Always"},
        lambda pod: container(pod)["imagePullPolicy"],
        "Always",
    ),
    "labels": (
        {"labels": {"team": "infra", "example.org/tier": "ci"}},
        lambda pod: [pod["metadata"]["labels"][key] for key in ("team", "example.org/tier")],
        ["infra", "ci"],
    ),
    "annotations": (
        {"annotations": {"example.org/note": "any text, with / and :"}},
        lambda pod: pod["metadata"]["annotations"]["example.org/note"],
        "any text, with / and :",
    ),
    "cpu": ({"cpu": 2}, lambda pod: (requests(pod), limits(pod)), ({"cpu": "2"}, {"cpu": "2"})),
    "cpu-fraction": ({"cpu": 0.5}, lambda pod: requests(pod)["cpu"], "500m"),
    "cpu-limit": (
        {"cpu": 1, "cpu-limit": 4},
        lambda pod: (requests(pod), limits(pod)),
        ({"cpu": "1"}, {"cpu": "4"}),
    ),
    "memory": (
        {"memory": 512},
        lambda pod: (requests(pod), limits(pod)),
        ({"memory": "512Mi"}, {"memory": "512Mi"}),
    ),
    "memory-limit": (
        {"memory": 512, "memory-limit": 1024},
        lambda pod: (requests(pod), limits(pod)),
        ({"memory": "512Mi"}, {"memory": "1Gi"}),
    ),
    "storage": (
        {"storage": 10},
        lambda pod: (requests(pod), limits(pod)),
        ({"ephemeral-storage": "10M"}, {"ephemeral-storage": "10M"}),
    ),
    "storage-limit": (
        {"storage": 10, "storage-limit": 20},
        lambda pod: (requests(pod), limits(pod)),
        ({"ephemeral-storage": "10M"}, {"ephemeral-storage": "20M"}),
    ),
    "extra-resources": (
        {"extra-resources": {"licences": 2}},
        lambda pod: container(pod)["resources"],
        {},
    ),
    "gpu": (
        {"gpu": 2, "gpu-resource": "nvidia.com/gpu"},
        lambda pod: (requests(pod), limits(pod)),
        ({"nvidia.com/gpu": "2"}, {"nvidia.com/gpu": "2"}),
    ),
    "env": (
        {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "two words"}]},
        lambda pod: container(pod)["env"][-2:],
        [{"name": "A", "value": "1"}, {"name": "B", "value": "two words"}],
    ),
    "node-selector": (
        {"node-selector": {"kubernetes.io/os": "linux"}},
        lambda pod: pod["spec"]["nodeSelector"],
        {"kubernetes.io/os": "linux"},
    ),
    "scheduler-name": (
        {"scheduler-name": "default-scheduler"},
        lambda pod: pod["spec"]["schedulerName"],
        "default-scheduler",
    ),
    "privileged": (
        {"privileged": True},
        lambda pod: container(pod)["securityContext"],
        {"privileged": True},
    ),
    "unprivileged": (
        {"privileged": False},
        lambda pod: container(pod)["securityContext"],
        {"privileged": False},
    ),
    "privileged-default": ({}, lambda pod: "securityContext" in container(pod), False),
    "volumes": ({"volumes": [SCRATCH], "volume-mounts": [MOUNT]}, volumes, [SCRATCH]),
    "volume-mounts": ({"volumes": [SCRATCH], "volume-mounts": [MOUNT]}, mounts, [MOUNT]),
    "restart": ({}, lambda pod: pod["spec"]["restartPolicy"], "Never"),
    "no-resources": ({}, lambda pod: container(pod)["resources"], {}),
}


async def stored(
    zuul: Zuul, admin: Admin, request_id: str
) -> dict[str, tuple[Object, Object, Object]]:
    """Pod, namespace and record of each node of a fulfilled request, by label."""
    found = {}
    for node_id in (await zuul.answered(request_id))["nodes"]:
        node = await zuul.node(node_id)
        assert node is not None
        name = node["external_id"]
        pod = await admin.pod(name, node["interface_ip"]) if node["interface_ip"] else {}
        namespace = await admin.namespace(name)
        assert pod is not None
        assert namespace is not None
        found[node["type"][0]] = (pod, namespace, node)
    return found


async def test_every_option_is_in_the_stored_pod(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    labels = [pod_label(name, **options) for name, (options, _, _) in OPTIONS.items()]
    await launchers.start(make_site(*labels))
    found = await stored(zuul, admin, await zuul.submit(*OPTIONS))
    seen = {name: look(found[name][0]) for name, (_, look, _) in OPTIONS.items()}
    assert seen == {name: expected for name, (_, _, expected) in OPTIONS.items()}


async def test_a_pools_defaults_are_for_labels_that_say_nothing(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    defaults = {
        "default-label-cpu": 1,
        "default-label-cpu-limit": 3,
        "default-label-memory": 100,
        "default-label-memory-limit": 300,
        "default-label-storage": 10,
        "default-label-storage-limit": 30,
        "default-label-extra-resources": {"licences": 5},
    }
    licence = {"licences": 1}
    own = pod_label("own", cpu=2, memory=200, memory_limit=250, storage=20, extra_resources=licence)
    raw = spec_label({"containers": [{"name": "c", "image": IMAGE}]}, "raw")
    await launchers.start(make_site(pod_label("default"), own, raw, pool=defaults))
    found = await stored(zuul, admin, await zuul.submit("default", "own", "raw"))
    assert container(found["default"][0])["resources"] == {
        "requests": {"cpu": "1", "memory": "100Mi", "ephemeral-storage": "10M"},
        "limits": {"cpu": "3", "memory": "300Mi", "ephemeral-storage": "30M"},
    }
    assert container(found["own"][0])["resources"] == {
        "requests": {"cpu": "2", "memory": "200Mi", "ephemeral-storage": "20M"},
        "limits": {"cpu": "3", "memory": "250Mi", "ephemeral-storage": "30M"},
    }
    assert container(found["raw"][0])["resources"] == {}
    assert {name: node["resources"] for name, (_, _, node) in found.items()} == {
        "default": {
            "cores": 1,
            "ram": 100,
            "instances": 1,
            "ephemeral-storage": 10,
            "licences": 5,
        },
        "own": {"cores": 2, "ram": 200, "instances": 1, "ephemeral-storage": 20, **licence},
        "raw": {"cores": 0, "ram": 0, "instances": 1},
    }


async def test_namespace_and_pod_carry_what_they_are_found_by(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    hiding = {"nodepool_node_id": "forged", DEPLOYMENT: "forged", "team": "infra"}
    await launchers.start(
        make_site(pod_label(labels=hiding), namespace_label(labels={"team": "infra"}))
    )
    found = await stored(zuul, admin, await zuul.submit("pod", "namespace"))
    deployment = await zuul.deployment()
    for label, (pod, namespace, node) in found.items():
        expected = {
            "team": "infra",
            "nodepool_node_id": node["external_id"].rpartition("-")[2],
            "nodepool_provider_name": "local",
            "nodepool_pool_name": make_site.pool,
            "nodepool_node_label": label,
            "app.kubernetes.io/managed-by": "nodepool-k8s",
            DEPLOYMENT: deployment,
        }
        objects = [namespace, pod] if pod else [namespace]
        for each in objects:
            labels = each["metadata"]["labels"]
            assert {key: labels[key] for key in expected} == expected


async def test_annotations_are_the_pods_alone(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    evict = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    await launchers.start(
        make_site(pod_label(annotations={"note": "x", evict: "true"}), pod_label("plain"))
    )
    found = await stored(zuul, admin, await zuul.submit("pod", "plain"))
    pod, namespace, _ = found["pod"]
    assert pod["metadata"]["annotations"]["note"] == "x"
    assert "annotations" not in namespace["metadata"]
    # An allocated node must stay, unless its label says otherwise.
    assert pod["metadata"]["annotations"][evict] == "true"
    plain = found["plain"][0]["metadata"]["annotations"]
    assert plain[evict] == "false"
    assert plain["karpenter.sh/do-not-disrupt"] == "true"


async def test_a_raw_spec_goes_through_verbatim(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    spec: Object = {
        "containers": [
            {
                "name": "main",
                "image": IMAGE,
                "command": ["sleep"],
                "args": ["infinity"],
                "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}},
            },
            {"name": "helper", "image": IMAGE, "resources": {"limits": {"cpu": "1"}}},
        ],
        "initContainers": [
            {"name": "init", "image": IMAGE, "resources": {"requests": {"memory": "3Gi"}}}
        ],
        "terminationGracePeriodSeconds": 7,
        "hostname": "box",
        "restartPolicy": "OnFailure",
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    }
    label = spec_label(spec, "raw.spec", labels={"team": "infra"}, annotations={"note": "x"})
    await launchers.start(make_site(label))
    found = await stored(zuul, admin, await zuul.submit("raw.spec"))
    pod, _, node = found["raw.spec"]
    assert pod["metadata"]["name"] == node["interface_ip"] == "raw.spec"
    assert pod["metadata"]["labels"]["team"] == "infra"
    assert pod["metadata"]["annotations"]["note"] == "x"
    kept = pod["spec"]
    for key in ("terminationGracePeriodSeconds", "hostname", "restartPolicy"):
        assert kept[key] == spec[key]
    assert spec["tolerations"][0] in kept["tolerations"]
    for ours, theirs in zip(spec["containers"], kept["containers"], strict=True):
        assert {key: theirs[key] for key in ours if key != "resources"} == {
            key: value for key, value in ours.items() if key != "resources"
        }
    assert node["resources"] == {"cores": 1.25, "ram": 3072, "instances": 1}


# --- dynamic labels -------------------------------------------------------------------------

DYNAMIC: dict[str, tuple[str, str | None]] = {
    "id": ("{request.id}", "{id}"),
    "labels": ("{request.labels}", "pod"),
    "first-label": ("{request.labels[0]}", "pod"),
    "requestor": ("by {request.requestor}", "by-zuul-system"),
    "job": ("{request.requestor_data[job_name]}", "a-job--any-job"),
    "priority": ("p{request.relative_priority}", "p0"),
    "tenant": ("{request.tenant_name}", "tenant-one"),
    "event": ("{request.event_id}", "{event}"),
    "long": ("{request.requestor_data[long]}", "x" * 63),
    "missing": ("{request.requestor_data[nothing]}", None),
    "unknown": ("{request.colour}", None),
    "attack": ("{request.id.__class__}", None),
    "broken": ("{request.id", None),
    "hopeless": ("{request.requestor_data[odd]}", None),
}


async def test_dynamic_labels_are_made_valid_or_left_out(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    caplog: pytest.LogCaptureFixture,
) -> None:
    formats = {key: text for key, (text, _) in DYNAMIC.items() if key != "broken"}
    await launchers.start(
        make_site(pod_label(dynamic_labels=formats), namespace_label(dynamic_labels=formats))
    )
    record = zuul_request(["pod", "namespace"])
    record["requestor_data"] |= {"job_name": "a job: any job!", "long": "x" * 500, "odd": "///"}
    request_id = await zuul.submit_raw(record)
    found = await stored(zuul, admin, request_id)
    for made in (found["pod"][0], found["pod"][1], found["namespace"][1]):
        labels: dict[str, Any] = made["metadata"]["labels"]
        assert labels["id"] == request_id
        assert labels["event"] == record["event_id"]
        assert labels["first-label"] == "pod"
        assert labels["priority"] == "p0"
        assert labels["tenant"] == "tenant-one"
        assert labels["long"] == "x" * 63
        assert labels["requestor"].startswith("by")
        assert "a" in labels["job"]
        for key, (_, value) in DYNAMIC.items():
            assert (key in labels) == (value is not None), key
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for key in ("missing", "unknown", "attack", "hopeless"):
        assert any(f"dynamic label {key} is left out" in line for line in warned)


@pytest.mark.parametrize("data", [None, [], "text", {"job_name": None}])
async def test_a_request_without_the_data_is_served_without_the_label(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, data: object
) -> None:
    label = pod_label(dynamic_labels={"job": "{request.requestor_data[job_name]}"})
    await launchers.start(make_site(label))
    request_id = await zuul.submit("pod", requestor_data=data)
    pod, _, _ = (await stored(zuul, admin, request_id))["pod"]
    assert pod["metadata"]["labels"].get("job", "None") == "None"


async def test_the_longest_names_of_pools_and_labels_make_valid_names(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    name = "a" * 63
    pool = make_site.pool.ljust(48, "x")
    await launchers.start(make_site(pod_label(name), pool={"name": pool}))
    pod, namespace, node = (await stored(zuul, admin, await zuul.submit(name)))[name]
    assert pod["metadata"]["name"] == name
    assert len(namespace["metadata"]["name"]) <= 63
    assert node["pool"] == pool
    assert namespace["metadata"]["name"].endswith(node["external_id"][-10:])


async def test_the_default_command_sleeps_and_heeds_sigterm(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(pod_label()))
    pod, _, _ = (await stored(zuul, admin, await zuul.submit("pod")))["pod"]
    (script,) = container(pod)["args"]
    assert container(pod)["command"] == ["/bin/sh", "-c"]
    assert "trap" in script
