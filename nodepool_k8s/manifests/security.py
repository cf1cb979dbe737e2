"""Security contexts, and the labels by which Pod Security Admission knows a namespace's level."""

from __future__ import annotations

from typing import Any

from nodepool_k8s.config.settings import Security
from nodepool_k8s.manifests.object_labels import Manifest

LEVEL_LABEL = "pod-security.kubernetes.io/"

# A violation by a pod is refused; by what makes pods (a Deployment), its author is warned.
_MODES = ("enforce", "audit", "warn")


def namespace_labels(security: Security) -> dict[str, str]:
    """Build the labels that say which pods the namespace lets in."""
    if security.pod_security is None:
        return {}
    return {f"{LEVEL_LABEL}{mode}": security.pod_security for mode in _MODES}


def pod_context(security: Security) -> Manifest:
    """Build the pod's security context: what holds for all of its containers."""
    context: dict[str, Any] = {
        "runAsUser": security.run_as_user,
        "runAsGroup": security.run_as_group,
        "runAsNonRoot": security.run_as_non_root,
        "fsGroup": security.fs_group,
    }
    if security.pod_security == "restricted":
        context |= {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    return _given(context)


def container_context(security: Security) -> Manifest:
    """Build the container's security context: what only a container can have."""
    context: dict[str, Any] = {
        "privileged": security.privileged,
        "allowPrivilegeEscalation": security.allow_privilege_escalation,
    }
    if security.pod_security == "restricted":
        context |= {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return _given(context)


def _given(context: dict[str, Any]) -> Manifest:
    return {key: value for key, value in context.items() if value is not None}
