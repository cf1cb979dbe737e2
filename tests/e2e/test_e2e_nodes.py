"""On a real kubelet: a node is used as Zuul uses it, with the token that was handed out."""

import asyncio
import base64
import contextlib
import gc
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from harness.zookeeper import Record
from kubernetes import client
from kubernetes.stream import portforward, stream

from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import IMAGE, SiteMaker, namespace_label, pod_label, spec_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

# The Kubernetes client leaves the sockets of exec and port-forward to the garbage collector.
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Close what the client left open while the warning about it is still ignored."""
    yield
    gc.collect()


@contextlib.contextmanager
def as_requestor(connection: Record) -> Iterator[Any]:
    """Speak to the cluster with nothing but what the node's record holds."""
    with tempfile.NamedTemporaryFile() as authority:
        authority.write(base64.b64decode(connection["ca_crt"]))
        authority.flush()
        settings = client.Configuration(host=connection["host"])
        settings.ssl_ca_cert = authority.name
        settings.api_key = {"authorization": f"Bearer {connection['token']}"}
        with client.ApiClient(settings) as api:
            yield client.CoreV1Api(api)


async def connection_of(zuul: Zuul, request_id: str) -> Record:
    request = await zuul.answered(request_id)
    node = await zuul.node(request["nodes"][0])
    assert node is not None
    found: Record = node["connection_port"]
    return found


def forbidden(call: Any, *arguments: Any, **options: Any) -> bool:
    try:
        call(*arguments, **options)
    except client.ApiException as error:
        return int(error.status) == 403
    return False


async def test_the_token_may_exec_read_logs_and_forward_ports(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    spec = {
        "containers": [
            {
                "name": "pod",
                "image": IMAGE,
                "command": ["/bin/sh", "-c"],
                "args": [
                    "trap 'exit 0' TERM; echo here I am; httpd -p 127.0.0.1:19885 -h /etc;"
                    " while true; do sleep 86400 & wait; done"
                ],
            }
        ]
    }
    await launchers.start(make_site(spec_label(spec)))
    request_id = await zuul.submit("pod")
    connection = await connection_of(zuul, request_id)
    names = connection["pod"], connection["namespace"]

    def use() -> tuple[str, str, bytes]:
        with as_requestor(connection) as api:
            command = ["/bin/sh", "-c", "echo $((6 * 7)); id -u"]
            shown = stream(
                api.connect_get_namespaced_pod_exec, *names, command=command, stdout=True
            )
            log = api.read_namespaced_pod_log(*names)
            forward = portforward(api.connect_get_namespaced_pod_portforward, *names, ports="19885")
            with contextlib.closing(forward.socket(19885)) as socket:
                socket.setblocking(True)
                socket.sendall(b"GET /passwd HTTP/1.0\r\n\r\n")
                page = b""
                while part := socket.recv(4096):
                    page += part
            return shown, log, page

    shown, log, page = await asyncio.to_thread(use)
    assert shown.split() == ["42", "0"]
    assert "here I am" in log
    assert b"root:x:0:0" in page
    await zuul.use_and_return(request_id)


async def test_the_token_opens_nothing_else(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(pod_label(), pod_label("other-pod")))
    mine = await connection_of(zuul, await zuul.submit("pod"))
    other = await connection_of(zuul, await zuul.submit("other-pod"))

    container = {"name": "c", "image": IMAGE}
    pod = {"metadata": {"name": "mine"}, "spec": {"containers": [container]}}
    namespace = mine["namespace"]

    def allowed() -> list[str]:
        with as_requestor(mine) as api:
            assert api.read_namespaced_pod(mine["pod"], namespace)
            exec_ = api.connect_get_namespaced_pod_exec
            token = api.create_namespaced_service_account_token
            attempts: dict[str, tuple[Any, ...]] = {
                "others' pod": (api.read_namespaced_pod, other["pod"], other["namespace"]),
                "others' pods": (api.list_namespaced_pod, other["namespace"]),
                "exec in others' pod": (exec_, other["pod"], other["namespace"]),
                "all pods": (api.list_pod_for_all_namespaces,),
                "namespaces": (api.list_namespace,),
                "nodes": (api.list_node,),
                "secrets": (api.list_namespaced_secret, namespace),
                "the cluster's secrets": (api.list_namespaced_secret, "kube-system"),
                "deleting": (api.delete_namespaced_pod, mine["pod"], namespace),
                "creating": (api.create_namespaced_pod, namespace, pod),
                "the namespace": (api.delete_namespace, namespace),
                "another token": (token, "zuul-worker", namespace, {"spec": {"audiences": []}}),
            }
            return [what for what, attempt in attempts.items() if not forbidden(*attempt)]

    assert not await asyncio.to_thread(allowed)


async def test_a_namespace_nodes_token_makes_a_pod_that_runs(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    await launchers.start(make_site(namespace_label()))
    request_id = await zuul.submit("namespace")
    connection = await connection_of(zuul, request_id)
    namespace = connection["namespace"]
    container = {"name": "c", "image": IMAGE, "command": ["sleep", "600"]}
    pod = {"metadata": {"name": "mine"}, "spec": {"containers": [container]}}

    with as_requestor(connection) as api:
        await asyncio.to_thread(api.create_namespaced_pod, namespace, pod)

        async def runs() -> bool:
            found = await asyncio.to_thread(api.read_namespaced_pod, "mine", namespace)
            return bool(found.status.phase == "Running")

        await eventually(runs, "the requestor's pod runs")
        assert forbidden(api.list_namespaced_pod, "default")
        assert forbidden(api.list_node)
    await zuul.use_and_return(request_id)


async def test_a_used_nodes_record_goes_when_its_containers_are_gone(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    await launchers.start(make_site(pod_label(), pool={"max-servers": 1}))
    first, second = [await zuul.submit("pod") for _ in range(2)]
    (node_id,) = (await zuul.answered(first))["nodes"]
    await zuul.give_back(await zuul.accept(first))
    await zuul.gone(node_id)
    assert not await admin.get(f"/api/v1/namespaces/{make_site.namespace(node_id)}/pods/pod")
    await zuul.use_and_return(second)


async def reason_of(zuul: Zuul, label: str) -> str:
    request = await zuul.answered(await zuul.submit(label), "failed")
    return str(request["nodepool_k8s"]["reasons"])


async def test_an_image_that_cannot_be_pulled_is_told(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    labels = (
        pod_label("unreachable", image="registry.invalid/nothing:1", image_pull_timeout=2),
        pod_label("never", image="registry.invalid/nothing:1", image_pull="Never"),
        pod_label("malformed", image="UPPER//case"),
    )
    await launchers.start(make_site(*labels, provider={"launch-retries": 2}))
    told = await reason_of(zuul, "unreachable")
    assert "ErrImagePull" in told or "ImagePullBackOff" in told
    assert "ErrImageNeverPull" in await reason_of(zuul, "never")
    assert "InvalidImageName" in await reason_of(zuul, "malformed")


async def test_a_container_that_ends_during_the_launch_is_noticed(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    def ending(script: str, **options: Any) -> Record:
        container = {"name": "c", "image": IMAGE, "command": ["/bin/sh", "-c", script]}
        probe = {"exec": {"command": ["false"]}, "periodSeconds": 1}
        return {"containers": [{**container, "readinessProbe": probe, **options}]}

    labels = (
        spec_label({**ending("exit 7"), "restartPolicy": "Never"}, "exits"),
        spec_label(ending("exit 8"), "loops"),
        spec_label(
            {
                **ending("tail /dev/zero", resources={"limits": {"memory": "16Mi"}}),
                "restartPolicy": "Never",
            },
            "eats",
        ),
    )
    await launchers.start(make_site(*labels, provider={"launch-retries": 1}))
    assert "exit code 7" in await reason_of(zuul, "exits")
    looped = await reason_of(zuul, "loops")
    assert "CrashLoopBackOff" in looped
    assert "OOMKilled (exit code 137)" in await reason_of(zuul, "eats")
