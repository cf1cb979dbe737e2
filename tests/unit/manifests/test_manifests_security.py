"""Security contexts and the namespace's level."""

import pytest

from nodepool_k8s.config.settings import Security
from nodepool_k8s.manifests import security
from nodepool_k8s.manifests.object_labels import Manifest


def test_nothing_is_said_where_nothing_is_asked_for() -> None:
    for piece in (security.pod_context, security.container_context, security.namespace_labels):
        assert piece(Security()) == {}


def test_each_option_stands_where_kubernetes_has_it() -> None:
    asked = Security(
        privileged=False,
        allow_privilege_escalation=False,
        run_as_user=0,
        run_as_group=1,
        run_as_non_root=False,
        fs_group=2,
    )
    assert security.pod_context(asked) == {
        "runAsUser": 0,
        "runAsGroup": 1,
        "runAsNonRoot": False,
        "fsGroup": 2,
    }
    assert security.container_context(asked) == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
    }


@pytest.mark.parametrize(
    ("level", "pod", "container"),
    [
        ("privileged", {}, {}),
        ("baseline", {}, {}),
        (
            "restricted",
            {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        ),
    ],
)
def test_a_level_brings_what_it_demands(level: str, pod: Manifest, container: Manifest) -> None:
    asked = Security(pod_security=level)
    assert security.pod_context(asked) == pod
    assert security.container_context(asked) == container
    assert security.namespace_labels(asked) == {
        f"pod-security.kubernetes.io/{mode}": level for mode in ("enforce", "audit", "warn")
    }
