"""On a real kubelet: what a label asks for, seen from inside of its pod."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from harness.api import ApiError
from harness.zookeeper import Record

from tests.support.admin import Admin
from tests.support.inside import run_inside
from tests.support.launchers import Launchers
from tests.support.site import IMAGE, SiteMaker, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.e2e

SERVE = "echo $NODEPOOL_POD_NAME > page; httpd -p 8080; trap 'exit 0' TERM; sleep 86400 & wait"
EAT_WHEN_TOLD = "while ! [ -e /tmp/go ]; do sleep 0.1; done; exec tail /dev/zero"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"
KIB = 1024


@pytest.fixture
async def build(admin: Admin, make_site: SiteMaker) -> AsyncIterator[str]:
    """A namespace with a Secret and a ConfigMap."""
    name = f"build-{make_site.chroot[-8:]}"
    await admin.create_sources(name, secret={"TOKEN": "s3"}, settings={"MODE": "ci"})
    yield name
    await admin.delete_namespace(name)


async def shell(node: Record, script: str) -> str:
    """What a script in a node's pod writes, run by nothing but the node's record."""
    connection = node["connection_port"]
    _, written = await run_inside(connection, connection["pod"], ["sh", "-c", script])
    return written.strip()


async def nodes_of(zuul: Zuul, request_id: str) -> dict[str, Record]:
    """The nodes of a fulfilled request, by label."""
    found = [await zuul.node(node_id) for node_id in (await zuul.answered(request_id))["nodes"]]
    return {node["type"][0]: node for node in found if node is not None}


async def pairs(node: Record, script: str) -> Mapping[str, str]:
    """The lines ``name=value`` that a script writes."""
    lines = (await shell(node, script)).splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


async def test_a_pod_has_inside_what_its_label_asks_for(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, build: str
) -> None:
    options: dict[str, Any] = {
        "pod-security": "restricted",
        "run_as_user": 1000,
        "run_as_group": 2000,
        "fs_group": 3000,
        "memory": 256,
        "shared_memory": 8,
        "tmpfs": {"size": 16, "tempdir": True},
        "volumes": [{"volume_type": "empty_dir", "name": "data", "mount_path": "/data"}],
        "working_dir": "/data",
        "command": ["sh", "-c"],
        "args": [SERVE],
        "envs": [{"name": "OWN", "value": "of its own"}, {"name": "NUMBER", "value": 42}],
        "secrets": ["creds"],
        "config_maps": ["settings"],
        "service_ports": [{"port": 80, "target_port": 8080}],
    }
    site = make_site(
        pod_label("full") | options, pod_label("caller"), provider={"source-namespace": build}
    )
    await launchers.start(site)
    request_id = await zuul.submit("full", "caller")
    nodes = await nodes_of(zuul, request_id)
    full, namespace = nodes["full"], nodes["full"]["external_id"]
    pod = await admin.pod(namespace, "full")
    assert pod is not None

    env = await pairs(full, "env")
    wanted = {
        "OWN": "of its own",
        "NUMBER": "42",
        "TOKEN": "s3",
        "MODE": "ci",
        "TMPDIR": "/metaflow_temp",
        "NODEPOOL_WORKLOAD": "1",
        "NODEPOOL_POD_NAME": "full",
        "NODEPOOL_POD_NAMESPACE": namespace,
        "NODEPOOL_POD_ID": pod["metadata"]["uid"],
        "NODEPOOL_NODE_IP": pod["status"]["hostIP"],
        "PWD": "/data",
    }
    assert {name: env.get(name) for name in wanted} == wanted

    assert await shell(full, "echo $(id -u) $(id -g) $(id -G)") == "1000 2000 2000 3000"
    # The volume is the group's, and so is what is made in it.
    assert await shell(full, "touch made; stat -c %g . made | xargs") == "3000 3000"

    for path, size in (("/dev/shm", 8), ("/metaflow_temp", 16)):
        assert f"tmpfs {path} tmpfs" in await shell(full, "cat /proc/mounts")
        shown = await shell(full, f"df -k {path} | tail -1")
        assert shown.split()[1] == str(size * KIB)
        fill = f"dd if=/dev/zero of={path}/big bs=1024k count={2 * size} 2>&1"
        assert "No space left on device" in await shell(full, fill)
        assert await shell(full, f"stat -c %s {path}/big; rm {path}/big") == str(size * KIB * KIB)

    # Kubernetes holds the namespace to it, and the pod was let in.
    held = await pairs(full, r"sed -n 's/:\s*/=/p' /proc/1/status")
    assert (held["CapEff"].strip("0"), held["NoNewPrivs"], held["Seccomp"]) == ("", "1", "2")
    main = {"name": "c", "image": IMAGE}
    with pytest.raises(ApiError, match="violates PodSecurity"):
        await admin.call(
            "POST",
            f"/api/v1/namespaces/{namespace}/pods?dryRun=All",
            {"metadata": {"name": "lax"}, "spec": {"containers": [main]}},
        )

    await reach(admin, full, nodes["caller"])
    await zuul.use_and_return(request_id)


async def reach(admin: Admin, node: Record, caller: Record) -> None:
    """Fetch a page through the node's Service."""
    namespace = node["external_id"]

    async def ends() -> list[str]:
        return [
            f"{address}:{port['port']}"
            for each in (await admin.call("GET", SLICES.format(namespace)))["items"]
            for endpoint in each["endpoints"] or ()
            for address in endpoint["addresses"]
            for port in each["ports"]
        ]

    # By what leads from the Service to the pod: no kube-proxy is on a local cluster.
    (end,) = await eventually(ends, "the Service has a pod behind it")
    assert end.endswith(":8080")
    assert await shell(caller, f"wget -q -O - http://{end}/page") == "full"
    # And by the Service's own port: the API server is a proxy of Services, too.
    through = f"/api/v1/namespaces/{namespace}/services/full:80/proxy/page"
    assert await admin.request("GET", through) == b"full\n"


async def test_a_pod_beyond_its_memory_is_reported_as_such(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    labels = (
        pod_label("eats", memory=32, command=["sh", "-c"], args=[EAT_WHEN_TOLD]),
        # Seen running or not, it is gone when its command is tried.
        pod_label("starved", memory=16, command=["tail", "/dev/zero"], ready_check="exec"),
    )
    await launchers.start(make_site(*labels, provider={"launch-retries": 1}))
    failed = await zuul.answered(await zuul.submit("starved"), "failed")
    (reason,) = failed["nodepool_k8s"]["reasons"]
    assert "container starved: OOMKilled (exit code 137)" in reason

    request_id = await zuul.submit("eats")
    node = (await nodes_of(zuul, request_id))["eats"]
    # Nobody has it, so it is the launcher that has to notice.
    await zuul.cancel(request_id)
    await shell(node, "touch /tmp/go")

    def told() -> list[str]:
        return [line for line in caplog.messages if "container eats: OOMKilled" in line]

    (line,) = await eventually(told, "the log tells why the node goes")
    assert line.startswith("Deleting node")
    assert line.endswith("(exit code 137)")
    other = (await nodes_of(zuul, await zuul.submit("eats")))["eats"]
    assert other["external_id"] != node["external_id"]
