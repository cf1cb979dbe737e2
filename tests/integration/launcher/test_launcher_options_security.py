"""Whom a pod runs as and what its namespace lets in: stored, and held to by the API server."""

import pytest
from harness.api import ApiError

from tests.integration.launcher.test_launcher_labels import container, stored
from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import IMAGE, SiteMaker, pod_label
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

LEVEL = "pod-security.kubernetes.io/"


async def test_security_options_are_stored_and_levels_held_to(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    step = {
        "privileged": False,
        "allow_privilege_escalation": False,
        "run_as_user": 1000,
        "run_as_group": 1000,
        "run_as_non_root": True,
    }
    labels = [
        pod_label("run", run_as_user=1000, run_as_group=1000, fs_group=1000),
        pod_label("step", security_context=step),
        pod_label("first", privileged=True, allow_privilege_escalation=True, run_as_user=0),
        pod_label("baseline", pod_security="baseline"),
        pod_label(
            "restricted",
            pod_security="restricted",
            run_as_user=1000,
            shared_memory=8,
        ),
    ]
    pool = {"default-label-fs-group": 7}
    await launchers.start(make_site(*labels, pool=pool))
    found = await stored(zuul, admin, await zuul.submit(*(label["name"] for label in labels)))
    contexts = {
        name: (pod["spec"]["securityContext"], container(pod).get("securityContext"))
        for name, (pod, _, _) in found.items()
        if pod
    }
    assert contexts == {
        "run": ({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}, None),
        "step": (
            {"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": True, "fsGroup": 7},
            {"privileged": False, "allowPrivilegeEscalation": False},
        ),
        "first": (
            {"runAsUser": 0, "fsGroup": 7},
            {"privileged": True, "allowPrivilegeEscalation": True},
        ),
        "baseline": ({"fsGroup": 7}, None),
        # With less, the API server would have refused the pod.
        "restricted": (
            {
                "runAsUser": 1000,
                "fsGroup": 7,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        ),
    }
    levels = {
        name: {
            key.removeprefix(LEVEL): value
            for key, value in namespace["metadata"]["labels"].items()
            if key.startswith(LEVEL)
        }
        for name, (_, namespace, _) in found.items()
    }
    none: dict[str, dict[str, str]] = {name: {} for name in ("run", "step", "first")}
    assert levels == none | {
        name: dict.fromkeys(("enforce", "audit", "warn"), level)
        for name, level in (
            ("baseline", "baseline"),
            ("restricted", "restricted"),
        )
    }
    for name in ("baseline", "restricted"):
        with pytest.raises(ApiError, match="violates PodSecurity"):
            await _post_privileged(admin, found[name][1]["metadata"]["name"])
    await _post_privileged(admin, found["run"][1]["metadata"]["name"])


async def _post_privileged(admin: Admin, namespace: str) -> None:
    main = {"name": "c", "image": IMAGE, "securityContext": {"privileged": True}}
    pod = {"metadata": {"name": "other"}, "spec": {"containers": [main]}}
    await admin.call("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod)
