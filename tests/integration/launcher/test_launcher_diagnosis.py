"""What goes wrong with a pod, and how the launch of its node ends: by the table of the design.

The fake node leaves pods annotated as manual alone; the tests say what a kubelet would.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from harness.api import MERGE, ApiError, Object
from harness.requestor import NODES
from harness.zookeeper import Record

from nodepool_k8s.kubernetes.creating import NodeCreator
from nodepool_k8s.manifests import NodeObjects
from nodepool_k8s.model import Namespace
from tests.support.admin import DEPLOYMENT, Admin, running, waiting
from tests.support.launchers import Launchers
from tests.support.site import Options, SiteMaker, manual_label, pod_label, spec_label
from tests.support.waiting import POLL_S, eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

SHORT: Options = {
    "launch-retries": 2,
    "launch-timeout": 20,
    "image-pull-timeout": 1,
    "unschedulable-timeout": 1,
}
"""Two attempts, and little patience; the outcome is what is looked at, not the time."""


def ended(phase: str = "Failed", reason: str = "", code: int = 3) -> Object:
    """The status of a pod whose container ended."""
    state = {"terminated": {"exitCode": code, "reason": "Error"}}
    container = {"name": "pod", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    status: Object = {"phase": phase, "containerStatuses": [{**container, "state": state}]}
    return {**status, "reason": reason} if reason else status


def with_condition(kind: str, status: str, reason: str) -> Object:
    return {"phase": "Pending", "conditions": [{"type": kind, "status": status, "reason": reason}]}


@asynccontextmanager
async def kubelet(
    admin: Admin, deployment: str, status: Callable[[int], Object | None]
) -> AsyncIterator[list[str]]:
    """Gives the n-th pod that appears (0 is the first) a status; the namespaces seen."""
    seen: list[str] = []

    async def play() -> None:
        while True:
            found = await admin.call("GET", f"/api/v1/pods?labelSelector={DEPLOYMENT}={deployment}")
            for pod in found["items"]:
                namespace = pod["metadata"]["namespace"]
                if namespace in seen or not pod["spec"].get("nodeName"):
                    continue
                seen.append(namespace)
                told = status(len(seen) - 1)
                if told is not None:
                    await admin.set_status(namespace, told)
            await asyncio.sleep(POLL_S)

    task = asyncio.create_task(play())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


async def reasons(zuul: Zuul, request_id: str) -> str:
    """Why the request failed, as it says itself."""
    request = await zuul.answered(request_id, "failed")
    assert request["nodes"] == []
    return "; ".join(request["nodepool_k8s"]["reasons"])


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING")


RETRIED: dict[str, tuple[Object, str]] = {
    "ErrImagePull": (waiting("ErrImagePull", "no such image"), "ErrImagePull: no such image"),
    "ImagePullBackOff": (waiting("ImagePullBackOff"), "ImagePullBackOff"),
    "CrashLoopBackOff": (waiting("CrashLoopBackOff"), "CrashLoopBackOff"),
    "RunContainerError": (waiting("RunContainerError"), "RunContainerError"),
    "exit": (ended(), "exit code 3"),
    "success": (ended("Succeeded", code=0), "Succeeded"),
    "Evicted": (ended(reason="Evicted"), "Evicted"),
    "OutOfcpu": (ended(reason="OutOfcpu"), "OutOfcpu"),
    "DisruptionTarget": (
        with_condition("DisruptionTarget", "True", "PreemptionByScheduler"),
        "PreemptionByScheduler",
    ),
}


@pytest.mark.parametrize("name", RETRIED)
async def test_what_may_pass_is_retried_up_to_launch_retries(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    status, reason = RETRIED[name]
    await launchers.start(make_site(manual_label(), provider=SHORT))
    async with kubelet(admin, await zuul.deployment(), lambda _: status) as seen:
        assert reason in await reasons(zuul, await zuul.submit("pod"))
    first = make_site.namespace("0000000000")
    assert seen == [first, f"{first}-1"]  # A name of its own for each attempt.
    assert reason in warnings(caplog)
    assert "Attempt 2 of 2 at node 0000000000" in warnings(caplog)


PERMANENT: dict[str, tuple[Object, str]] = {
    "InvalidImageName": (waiting("InvalidImageName"), "InvalidImageName"),
    "ErrImageNeverPull": (waiting("ErrImageNeverPull"), "ErrImageNeverPull"),
}


@pytest.mark.parametrize("name", PERMANENT)
async def test_what_cannot_pass_is_not_retried(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, name: str
) -> None:
    status, reason = PERMANENT[name]
    await launchers.start(make_site(manual_label(), provider=SHORT))
    async with kubelet(admin, await zuul.deployment(), lambda _: status) as seen:
        assert reason in await reasons(zuul, await zuul.submit("pod"))
    assert seen == [make_site.namespace("0000000000")]


async def test_a_second_attempt_that_succeeds_fulfils_the_request(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(manual_label(), provider=SHORT, pool={"max-servers": 1}))
    statuses = (ended(), running(ready=True))
    async with kubelet(admin, await zuul.deployment(), lambda number: statuses[number]):
        request = await zuul.answered(await zuul.submit("pod"))
    (node_id,) = request["nodes"]
    node = await zuul.node(node_id)
    assert node is not None
    second = make_site.namespace(node_id, attempt=1)
    assert node["external_id"] == node["connection_port"]["namespace"] == second
    # The failed attempt's pod is gone: the two never held the slot together.
    assert not await admin.get(f"/api/v1/namespaces/{make_site.namespace(node_id)}/pods/pod")


async def test_a_pod_deleted_under_us_is_made_anew(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(manual_label(), provider=SHORT))
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    first, second = make_site.namespace(node_id), make_site.namespace(node_id, attempt=1)
    await eventually(lambda: admin.pod(first), "the first pod")
    await admin.delete_pod(first)
    await eventually(lambda: admin.pod(second), "the second pod")
    await admin.make_ready(second)
    await zuul.answered(request_id)


async def test_a_namespace_deleted_under_us_is_made_anew(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(manual_label(), provider=SHORT))
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    first, second = make_site.namespace(node_id), make_site.namespace(node_id, attempt=1)
    await eventually(lambda: admin.pod(first), "the first pod")
    await admin.delete_namespace(first)
    await eventually(lambda: admin.pod(second), "the second pod")
    await admin.make_ready(second)
    await zuul.answered(request_id)


async def test_a_pod_that_fits_nowhere_is_given_up(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    label = pod_label(node_selector={"no-such": "node"})
    await launchers.start(make_site(label, provider=SHORT))
    assert "Unschedulable" in await reasons(zuul, await zuul.submit("pod"))


async def test_a_scheduler_that_does_not_exist_is_named(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    label = pod_label(scheduler_name="nobody")
    await launchers.start(make_site(label, provider=SHORT))
    told = await reasons(zuul, await zuul.submit("pod"))
    assert "scheduler nobody has not answered" in told


async def test_nothing_decisive_ends_at_the_launch_timeout(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    options = {"launch-timeout": 1, "launch-retries": 1}
    await launchers.start(make_site(manual_label(), provider=options))
    assert await reasons(zuul, await zuul.submit("pod"))


async def test_running_is_enough_where_the_label_says_so(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    labels = manual_label(ready_when="running"), manual_label("strict", launch_timeout=2)
    await launchers.start(make_site(*labels, provider={"launch-retries": 1}))
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    await eventually(lambda: admin.pod(make_site.namespace(node_id)), "its pod")
    await admin.set_status(make_site.namespace(node_id), running(ready=False))
    await zuul.answered(request_id)
    strict = await zuul.submit("strict")
    (node_id,) = await zuul.building(strict)
    await eventually(lambda: admin.pod(make_site.namespace(node_id), "strict"), "its pod")
    await admin.set_status(make_site.namespace(node_id), running(ready=False), "strict")
    await reasons(zuul, strict)


# --- what the API server refuses ----------------------------------------------------------------


async def test_a_spec_that_cannot_be_is_refused_once_and_for_all(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, caplog: pytest.LogCaptureFixture
) -> None:
    spec = {"containers": [{"name": "c"}]}  # 422: it has no image.
    await launchers.start(make_site(spec_label(spec), provider=SHORT))
    told = await reasons(zuul, await zuul.submit("pod"))
    assert "422" in told
    assert "image" in told
    assert "Attempt 1 of 2 at node 0000000000 failed for good" in warnings(caplog)


def prepare_namespaces(
    monkeypatch: pytest.MonkeyPatch, admin: Admin, kind: str, spec: Object
) -> None:
    """Put a ResourceQuota or LimitRange into each new namespace, ahead of its pod."""
    create = NodeCreator.create_namespace

    async def create_with_policy(self: NodeCreator, objects: NodeObjects) -> Namespace:
        made = await create(self, objects)
        path = f"/api/v1/namespaces/{made.name}/{kind}"
        await admin.call("POST", path, {"metadata": {"name": "policy"}, "spec": spec})
        return made

    monkeypatch.setattr(NodeCreator, "create_namespace", create_with_policy)


async def test_a_limit_range_that_forbids_the_pod_is_permanent(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = {"limits": [{"type": "Container", "max": {"cpu": "100m"}}]}
    prepare_namespaces(monkeypatch, admin, "limitranges", limits)
    await launchers.start(make_site(pod_label(cpu=1), provider=SHORT))
    told = await reasons(zuul, await zuul.submit("pod"))
    assert "403" in told
    assert "maximum cpu usage per Container is 100m" in told
    assert "failed for good" in warnings(caplog)


async def test_a_resource_quota_too_small_for_the_pod_is_permanent(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepare_namespaces(monkeypatch, admin, "resourcequotas", {"hard": {"requests.cpu": "500m"}})
    await launchers.start(make_site(pod_label(cpu=1), provider=SHORT))
    told = await reasons(zuul, await zuul.submit("pod"))
    assert "exceeded quota" in told
    assert "failed for good" in warnings(caplog)


async def test_a_used_up_resource_quota_uses_no_attempt(
    make_site: SiteMaker,
    launchers: Launchers,
    zuul: Zuul,
    admin: Admin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    create = NodeCreator.create_namespace

    async def with_full_quota(self: NodeCreator, objects: NodeObjects) -> Namespace:
        made = await create(self, objects)
        path = f"/api/v1/namespaces/{made.name}"
        quota = {"metadata": {"name": "policy"}, "spec": {"hard": {"pods": "1"}}}
        await eventually(lambda: admin.get(f"{path}/serviceaccounts/default"), "pods are admitted")
        container = {"name": "c", "image": "docker.io/library/busybox:1.35"}
        pod = {"metadata": {"name": "other"}, "spec": {"containers": [container]}}
        await admin.call("POST", f"{path}/pods", pod)
        await admin.call("POST", f"{path}/resourcequotas", quota)
        return made

    monkeypatch.setattr(NodeCreator, "create_namespace", with_full_quota)
    await launchers.start(make_site(pod_label(), provider={"launch-retries": 1}))
    request_id = await zuul.submit("pod")
    await eventually(lambda: "no attempt used up" in warnings(caplog), "it waits")
    (node_id,) = await zuul.building(request_id)
    # Meanwhile the pool takes on nothing else.
    second = await zuul.submit("pod")
    await eventually(lambda: is_paused(zuul), "the pool pauses")
    monkeypatch.setattr(NodeCreator, "create_namespace", create)
    await admin.delete_pod(make_site.namespace(node_id), "other")
    await zuul.answered(request_id)
    await zuul.answered(second)


async def is_paused(zuul: Zuul) -> bool:
    return all(component["paused"] for component in await zuul.components())


async def test_a_foreign_namespace_of_the_same_name_costs_an_attempt(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    name = make_site.namespace("0000000000")
    await admin.create_namespace(name, {"somebody": "else"})
    try:
        await launchers.start(make_site(pod_label(), provider=SHORT))
        request = await zuul.answered(await zuul.submit("pod"))
        node = await zuul.node(request["nodes"][0])
        assert node is not None
        assert node["external_id"] == f"{name}-1"
        foreign = await admin.namespace(name)
        assert foreign is not None
        assert "deletionTimestamp" not in foreign["metadata"]
    finally:
        await admin.delete_namespace(name)


# --- while a failed node is being deleted --------------------------------------------------------


async def test_a_node_being_deleted_keeps_its_slot(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    site = make_site(manual_label(), pool={"max-servers": 1}, provider={"launch-retries": 1})
    await launchers.start(site)
    request_id = await zuul.submit("pod")
    (node_id,) = await zuul.building(request_id)
    namespace = make_site.namespace(node_id)
    await eventually(lambda: admin.pod(namespace), "its pod")
    await finalize(admin, namespace, ["nodepool-k8s.test/stuck"])
    await admin.set_status(namespace, ended(code=42))
    assert "exit code 42" in await reasons(zuul, request_id)

    async def deleting() -> Record | None:
        node = await zuul.node(node_id)
        return node if node and node["state"] == "deleting" else None

    node = await eventually(deleting, "being deleted")
    assert "exit code 42" in node["driver_data"]["nodepool_k8s"]["reason"]
    second = await zuul.submit("pod")
    await eventually(lambda: is_paused(zuul), "no room for another")
    await finalize(admin, namespace, [])
    await zuul.building(second)
    assert node_id not in await zuul.children(NODES)


async def finalize(admin: Admin, namespace: str, finalizers: list[str]) -> None:
    """Hold a pod's object in the API after its deletion, or let it go."""
    path = f"/api/v1/namespaces/{namespace}/pods/pod"
    try:
        await admin.call("PATCH", path, {"metadata": {"finalizers": finalizers}}, MERGE)
    except ApiError as refusal:
        if refusal.status != 404:
            raise


async def test_one_hopeless_node_ends_the_whole_request(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    bad = spec_label({"containers": [{"name": "c"}]}, "bad")
    await launchers.start(make_site(pod_label(), manual_label("slow"), bad, provider=SHORT))
    assert "422" in await reasons(zuul, await zuul.submit("pod", "bad", "slow"))

    async def only_ready_ones_left() -> bool:
        nodes = (await zuul.nodes()).values()
        return all(node["state"] == "ready" and node["allocated_to"] is None for node in nodes)

    await eventually(only_ready_ones_left, "its siblings are gone, or free if they are ready")
