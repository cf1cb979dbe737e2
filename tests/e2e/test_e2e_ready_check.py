"""On a real kubelet: replicas, what was copied, and the command before the hand-over."""

from collections.abc import AsyncIterator

import pytest

from tests.support.admin import Admin
from tests.support.inside import run_inside
from tests.support.launchers import Launchers
from tests.support.site import IMAGE, SiteMaker, pod_label, spec_label
from tests.support.zuul import Zuul

pytestmark = pytest.mark.e2e


@pytest.fixture
async def build(admin: Admin, make_site: SiteMaker) -> AsyncIterator[str]:
    """A namespace with a Secret and a ConfigMap."""
    name = f"build-{make_site.chroot[-8:]}"
    settings = {"MODE": "ci", "PASSWORD": "under it"}
    await admin.create_sources(name, secret={"PASSWORD": "x"}, settings=settings)
    yield name
    await admin.delete_namespace(name)


async def test_three_replicas_are_checked_and_have_what_was_copied(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, build: str
) -> None:
    label = pod_label(
        "trio", replicas=3, secrets=["creds"], config_maps=["settings"], ready_check="exec"
    )
    await launchers.start(make_site(label, provider={"source-namespace": build}))
    request_id = await zuul.submit("trio")
    node = await zuul.node((await zuul.answered(request_id))["nodes"][0])
    assert node is not None
    assert 0 < node["driver_data"]["nodepool_k8s"]["steps"]["check"] < 30
    pods = {pod["metadata"]["name"]: pod for pod in await admin.pods(node["external_id"])}
    names = ["trio", "trio-1", "trio-2"]
    assert sorted(pods) == names
    conditions = [
        each["status"]
        for pod in pods.values()
        for each in pod["status"]["conditions"]
        if each["type"] == "Ready"
    ]
    assert conditions == ["True"] * 3
    for name in names:
        echo = ["sh", "-c", "echo $MODE $PASSWORD"]
        assert await run_inside(node["connection_port"], name, echo) == (0, "ci x\n")
    await zuul.use_and_return(request_id)


async def test_a_pod_without_the_command_is_not_handed_over(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul
) -> None:
    script = "rm -f /bin/true /usr/bin/true; trap 'exit 0' TERM; while :; do sleep 9 & wait; done"
    container = {"name": "main", "image": IMAGE, "command": ["/bin/sh", "-c", script]}
    # Ready once the command is gone.
    probe = {"exec": {"command": ["/bin/sh", "-c", "! [ -e /bin/true ]"]}, "periodSeconds": 1}
    spec = {"containers": [{**container, "readinessProbe": probe}]}
    label = spec_label(spec, "bare", ready_check="exec")
    await launchers.start(make_site(label, provider={"launch-retries": 1}))
    request = await zuul.answered(await zuul.submit("bare"), "failed")
    (reason,) = request["nodepool_k8s"]["reasons"]
    assert "the ready-check failed: true in pod bare: " in reason
    assert "not found" in reason
