"""Making, watching and removing nodes on a real API server."""

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from cluster import ClusterError, LocalCluster

from nodepool_k8s import manifests
from nodepool_k8s.config.settings import (
    AccessTokenSettings,
    LaunchSettings,
    Placement,
    Security,
    Volumes,
    Workload,
)
from nodepool_k8s.errors import ApiError
from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.cluster import Cluster
from nodepool_k8s.kubernetes.diagnosis import Observation, PodPending, diagnose
from nodepool_k8s.kubernetes.reflector import Subscription
from nodepool_k8s.kubernetes.refusals import Meaning, judge
from nodepool_k8s.manifests import NodeObjects
from nodepool_k8s.model import LabelType

if TYPE_CHECKING:
    from tests.integration.kubernetes.nodebench import Bench, is_ready, make_node, until
else:
    from nodebench import Bench, is_ready, make_node, until

pytestmark = pytest.mark.integration

API_SERVER = "kube-apiserver"


def path_of(objects: NodeObjects, *parts: str) -> str:
    return "/".join(("/api/v1/namespaces", objects.namespace_name, *parts))


# --- making -------------------------------------------------------------------------------


async def test_a_pod_node_is_made_and_removed(
    bench: Bench, cluster: Cluster, admin: ApiClient
) -> None:
    objects = bench.objects(cpu=1, memory=64)
    namespace, access = await make_node(cluster, objects)
    assert namespace.name == objects.namespace_name
    assert access.token
    assert access.expires is not None
    assert "token" not in repr(access).replace("AccessToken", "")
    (pod,) = cluster.pods(namespace.name)
    assert pod.host is not None
    assert [entry.name for entry in cluster.namespaces()] == [namespace.name]
    binding = await admin.get(
        f"/apis/{manifests.RBAC}/v1/namespaces/{namespace.name}/rolebindings/zuul-worker"
    )
    assert binding["roleRef"]["kind"] == "ClusterRole"

    await cluster.deleter.delete_node(namespace.name, 1.0)
    await asyncio.wait_for(cluster.deleter.pods_gone(namespace.name), 10)
    assert (await admin.get(path_of(objects, "pods")))["items"] == []
    await asyncio.wait_for(cluster.deleter.namespace_gone(namespace.name), 60)
    assert await cluster.reader.get_namespace(namespace.name) is None
    assert cluster.namespaces() == ()


async def test_a_namespace_node_is_made_and_removed(bench: Bench, cluster: Cluster) -> None:
    namespace, access = await make_node(cluster, bench.objects(LabelType.NAMESPACE))
    assert access.token
    assert cluster.pods(namespace.name) == ()
    await cluster.deleter.delete_node(namespace.name, 1.0)
    await asyncio.wait_for(cluster.deleter.pods_gone(namespace.name), 10)
    await asyncio.wait_for(cluster.deleter.namespace_gone(namespace.name), 60)


async def test_every_option_is_in_what_the_api_server_stored(
    bench: Bench, cluster: Cluster, admin: ApiClient
) -> None:
    objects = bench.objects(
        image_pull="Always",
        cpu=0.5,
        cpu_limit=1,
        memory=64,
        memory_limit=128,
        storage=10,
        storage_limit=20,
        gpu=1,
        gpu_resource="nvidia.com/gpu",
        workload=Workload(env=(("A", "1"),), pod_info_env=False),
        placement=Placement(
            node_selector={"kubernetes.io/os": "none-such"}, scheduler_name="somebody"
        ),
        security=Security(privileged=True),
        volumes=Volumes(
            raw=({"name": "v", "emptyDir": {}},),
            mounts=({"name": "v", "mountPath": "/v"},),
        ),
        labels={"team": "a"},
        annotations={"note": "x"},
    )
    namespace = await cluster.creator.create_namespace(objects)
    await cluster.creator.create_pod(objects)
    stored = await admin.get(path_of(objects, "pods", "pod-fedora"))
    spec, (container,) = stored["spec"], stored["spec"]["containers"]
    assert container["name"] == "pod-fedora"
    assert container["image"] == "docker.io/fedora:28"
    assert container["imagePullPolicy"] == "Always"
    assert container["env"] == [{"name": "A", "value": "1"}]
    assert container["securityContext"] == {"privileged": True}
    assert container["resources"] == {
        "requests": {
            "cpu": "500m",
            "memory": "64Mi",
            "ephemeral-storage": "10M",
            "nvidia.com/gpu": "1",
        },
        "limits": {
            "cpu": "1",
            "memory": "128Mi",
            "ephemeral-storage": "20M",
            "nvidia.com/gpu": "1",
        },
    }
    assert {"name": "v", "mountPath": "/v"} in container["volumeMounts"]
    assert {"name": "v", "emptyDir": {}} in spec["volumes"]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "none-such"}
    assert spec["schedulerName"] == "somebody"
    assert stored["metadata"]["annotations"]["note"] == "x"
    for metadata in (stored["metadata"], (await admin.get(path_of(objects)))["metadata"]):
        assert metadata["labels"]["team"] == "a"
        assert metadata["labels"]["nodepool_node_id"] == objects.node_id
    assert namespace.labels["nodepool_node_label"] == "pod-fedora"


async def test_a_raw_spec_is_stored_as_it_is(
    bench: Bench, cluster: Cluster, admin: ApiClient
) -> None:
    spec = {
        "containers": [{"name": "c", "image": "i", "command": ["sleep", "1"]}],
        "hostname": "mine",
        "terminationGracePeriodSeconds": 7,
    }
    objects = bench.objects(spec=spec, image=None)
    await cluster.creator.create_namespace(objects)
    pod = await cluster.creator.create_pod(objects)
    assert pod.grace == 7
    stored = (await admin.get(path_of(objects, "pods", "pod-fedora")))["spec"]
    assert stored["hostname"] == "mine"
    assert stored["containers"][0]["command"] == ["sleep", "1"]
    assert stored["restartPolicy"] == "Always"


async def test_what_an_earlier_try_made_is_taken_over(bench: Bench, cluster: Cluster) -> None:
    objects = bench.objects()
    first = await cluster.creator.create_namespace(objects)
    assert await cluster.creator.create_namespace(objects) == first
    await cluster.creator.create_access(objects)
    assert (await cluster.creator.create_access(objects)).token
    pod = await cluster.creator.create_pod(objects)
    assert (await cluster.creator.create_pod(objects)).uid == pod.uid


async def test_somebody_elses_namespace_is_neither_taken_nor_removed(
    bench: Bench, cluster: Cluster, admin: ApiClient
) -> None:
    objects = bench.objects()
    theirs = objects.namespace()
    theirs["metadata"]["labels"][manifests.DEPLOYMENT_LABEL] = "theirs"
    made = await admin.post("/api/v1/namespaces", theirs)
    with pytest.raises(ApiError, match="already exists"):
        await cluster.creator.create_namespace(objects)
    await cluster.deleter.delete_node(objects.namespace_name, 1.0)
    await cluster.deleter.pods_gone(objects.namespace_name)
    await cluster.deleter.namespace_gone(objects.namespace_name)
    present = await admin.get(path_of(objects))
    assert present["metadata"]["uid"] == made["metadata"]["uid"]
    assert "deletionTimestamp" not in present["metadata"]
    assert cluster.namespaces() == ()
    await admin.delete(path_of(objects))


async def test_a_namespace_of_another_node_of_ours_is_not_taken(
    bench: Bench, cluster: Cluster
) -> None:
    objects = bench.objects(node_id="7", attempt=1)
    await cluster.creator.create_namespace(objects)
    # The same name, by another way: node 7-1, first attempt.
    with pytest.raises(ApiError, match="already exists"):
        await cluster.creator.create_namespace(bench.objects(node_id="7-1"))


async def test_lasting_tokens_come_from_a_secret(
    bench: Bench, cluster: Cluster, admin: ApiClient
) -> None:
    launch = LaunchSettings(access_token=AccessTokenSettings(kind="secret"))
    objects = bench.objects(LabelType.NAMESPACE, launch=launch)
    _, access = await make_node(cluster, objects)
    assert access.token
    assert access.expires is None
    secret = await admin.get(path_of(objects, "secrets", "zuul-worker"))
    assert secret["type"] == "kubernetes.io/service-account-token"


async def test_a_reused_node_gets_a_fresh_token_and_its_annotations(
    bench: Bench, cluster: Cluster, admin: ApiClient
) -> None:
    objects = bench.objects()
    namespace, access = await make_node(cluster, objects)
    again = await cluster.creator.create_token(namespace.name, objects.label.launch.access_token)
    assert again.expires is not None
    assert access.expires is not None
    assert again.expires >= access.expires
    patch = {"metadata": {"annotations": {"a": "b"}}}
    await cluster.creator.patch_pod(namespace.name, objects.pod_name, patch)
    pod = await admin.get(path_of(objects, "pods", objects.pod_name))
    assert pod["metadata"]["annotations"]["a"] == "b"
    assert pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"


# --- refusals and troubles, as the API server really words them ----------------------------


def quota(**hard: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "team"},
        "spec": {"hard": hard},
    }


async def accounted(admin: ApiClient, path: str) -> None:
    """PodPending until the quota controller has counted; before that everything is refused."""
    async with asyncio.timeout(30):
        while not (await admin.get(path)).get("status", {}).get("used"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("hard", "meaning"), [("3", Meaning.CAPACITY), ("1", Meaning.PERMANENT)])
async def test_a_resource_quota(
    bench: Bench, cluster: Cluster, admin: ApiClient, hard: str, meaning: Meaning
) -> None:
    objects = bench.objects(cpu=2, memory=1)
    await cluster.creator.create_namespace(objects)
    await admin.post(path_of(objects, "resourcequotas"), quota(**{"requests.cpu": hard}))
    await accounted(admin, path_of(objects, "resourcequotas", "team"))
    if meaning is Meaning.CAPACITY:
        neighbour = dataclasses.replace(objects.label, name="neighbour")
        await cluster.creator.create_pod(dataclasses.replace(objects, label=neighbour))
    with pytest.raises(ApiError, match="exceeded quota") as refused:
        await cluster.creator.create_pod(objects)
    assert judge(refused.value).meaning is meaning


@pytest.mark.parametrize(
    "options",
    [
        {"spec": {"containers": []}},
        {
            "spec": {
                "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "x"}}}]
            }
        },
        {
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            "security": Security(privileged=True),
        },
    ],
)
async def test_permanent_refusals(bench: Bench, cluster: Cluster, options: dict[str, Any]) -> None:
    objects = bench.objects(**options)
    await cluster.creator.create_namespace(objects)
    with pytest.raises(ApiError) as refused:
        await cluster.creator.create_pod(objects)
    assert judge(refused.value).meaning is Meaning.PERMANENT, refused.value


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"placement": Placement(node_selector={"no": "such"})}, "Unschedulable: 0/"),
        ({"placement": Placement(scheduler_name="nobody")}, "scheduler nobody has not answered"),
    ],
)
async def test_a_pod_that_is_not_scheduled_tells_why(
    bench: Bench, cluster: Cluster, options: dict[str, Any], reason: str
) -> None:
    objects = bench.objects(**options)
    namespace = await cluster.creator.create_namespace(objects)
    await cluster.creator.create_pod(objects)
    observed = Observation(0.0)

    def told() -> bool:
        verdict, _ = diagnose(cluster.pods(namespace.name), observed, 1.0, objects.label.launch)
        return isinstance(verdict, PodPending) and reason in verdict.reason

    await until(cluster, namespace.name, told)


async def test_warning_events_are_told(bench: Bench, cluster: Cluster, admin: ApiClient) -> None:
    objects = bench.objects()
    await cluster.creator.create_namespace(objects)
    for kind, reason in (("Warning", "FailedMount"), ("Normal", "Scheduled")):
        await admin.post(
            path_of(objects, "events"),
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": reason.lower()},
                "involvedObject": {"kind": "Pod", "namespace": objects.namespace_name},
                "type": kind,
                "reason": reason,
                "message": "no such volume",
                "count": 3,
                "lastTimestamp": "2026-01-01T00:00:00Z",
            },
        )
    assert await cluster.reader.events(objects.namespace_name) == [
        "FailedMount: no such volume (3 times)"
    ]


# --- removing -----------------------------------------------------------------------------


async def test_a_pod_that_the_mirror_has_not_shown_yet_is_waited_for(
    bench: Bench, cluster: Cluster, admin: ApiClient
) -> None:
    objects = bench.objects()
    await cluster.creator.create_namespace(objects)
    await cluster.creator.create_pod(objects)
    await cluster.deleter.delete_node(objects.namespace_name, 1.0)
    await asyncio.wait_for(cluster.deleter.pods_gone(objects.namespace_name), 10)
    assert (await admin.get(path_of(objects, "pods")))["items"] == []
    with pytest.raises(ApiError):
        await cluster.creator.create_pod(objects)


async def test_removing_twice_and_removing_nothing(bench: Bench, cluster: Cluster) -> None:
    namespace, _ = await make_node(cluster, bench.objects())
    for _ in range(2):
        await cluster.deleter.delete_node(namespace.name, 1.0)
        await cluster.deleter.pods_gone(namespace.name)
    await cluster.deleter.delete_node("never-was", 1.0)
    await cluster.deleter.pods_gone("never-was")
    await cluster.deleter.namespace_gone("never-was")


async def test_what_holds_a_namespace_is_told(
    bench: Bench, cluster: Cluster, admin: ApiClient
) -> None:
    objects = bench.objects(LabelType.NAMESPACE)
    await cluster.creator.create_namespace(objects)
    held = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "held", "finalizers": ["example.com/hold"]},
    }
    await admin.post(path_of(objects, "configmaps"), held)
    await cluster.deleter.delete_node(objects.namespace_name, 1.0)
    async with asyncio.timeout(60):
        while True:
            blockers = await cluster.reader.namespace_blockers(objects.namespace_name)
            if any("example.com/hold" in blocker for blocker in blockers):
                break
            await asyncio.sleep(0.1)
    gone = asyncio.ensure_future(cluster.deleter.namespace_gone(objects.namespace_name))
    await admin.patch(path_of(objects, "configmaps", "held"), {"metadata": {"finalizers": None}})
    await asyncio.wait_for(gone, 60)
    assert await cluster.reader.namespace_blockers(objects.namespace_name) == []


# --- watching -----------------------------------------------------------------------------


async def test_only_our_deployment_is_seen(bench: Bench, cluster: Cluster, context: str) -> None:
    other = Bench(context)
    try:
        elsewhere = await other.cluster()
        ours, _ = await make_node(cluster, bench.objects(LabelType.NAMESPACE))
        theirs, _ = await make_node(elsewhere, other.objects(LabelType.NAMESPACE))
        assert [entry.name for entry in await cluster.reader.list_namespaces()] == [ours.name]
        assert [entry.name for entry in await elsewhere.reader.list_namespaces()] == [theirs.name]
        await until(cluster, ours.name, lambda: cluster.namespaces())
        assert [entry.name for entry in cluster.namespaces()] == [ours.name]
    finally:
        await other.close()


async def test_a_pod_that_somebody_deletes_is_told(
    bench: Bench, cluster: Cluster, admin: ApiClient
) -> None:
    told: list[tuple[str, str]] = []
    cluster.subscribe(
        Subscription(
            pod_lost=lambda name: told.append(("lost", name)),
            namespace_appeared=lambda name: told.append(("appeared", name)),
            namespace_disappeared=lambda name: told.append(("disappeared", name)),
        )
    )
    objects = bench.objects()
    namespace, _ = await make_node(cluster, objects)
    assert is_ready(cluster, namespace.name)
    await admin.delete(path_of(objects, "pods", objects.pod_name))
    await until(cluster, namespace.name, lambda: ("lost", namespace.name) in told)
    assert ("appeared", namespace.name) in told


async def test_a_new_launcher_sees_what_is_there(bench: Bench, cluster: Cluster) -> None:
    namespace, _ = await make_node(cluster, bench.objects())
    successor = await bench.cluster()
    assert [entry.name for entry in successor.namespaces()] == [namespace.name]
    assert is_ready(successor, namespace.name)


async def test_the_watches_outlive_the_api_server(
    bench: Bench, cluster: Cluster, fake_cluster: LocalCluster
) -> None:
    before, _ = await make_node(cluster, bench.objects(LabelType.NAMESPACE))
    try:
        await asyncio.to_thread(fake_cluster.stop, API_SERVER)
    except ClusterError as error:
        pytest.skip(f"not run, for the API server cannot be stopped here: {error}")
    try:
        await asyncio.wait_for(out_of_touch(cluster), 10)
    finally:
        await asyncio.to_thread(fake_cluster.start, API_SERVER)
    after, _ = await make_node(cluster, bench.objects())
    await until(cluster, after.name, lambda: cluster.out_of_touch_since is None)
    names = {entry.name for entry in cluster.namespaces()}
    assert names == {before.name, after.name}


async def out_of_touch(cluster: Cluster) -> None:
    while cluster.out_of_touch_since is None:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
