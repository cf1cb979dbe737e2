"""Who may do what on a node: the roles, and the tokens that requestors get."""

from __future__ import annotations

from collections.abc import Mapping

from nodepool_k8s.manifests.object_labels import (
    MANAGED_BY,
    MANAGED_BY_LABEL,
    Manifest,
    plain_labels,
)

POD_ACCESS = "nodepool-k8s-pod-access"
NAMESPACE_ACCESS = "nodepool-k8s-namespace-access"

WORKER = "zuul-worker"
"""The service account whose token requestors get; Nodepool's name for it."""

RBAC = "rbac.authorization.k8s.io"

_POD_RULES: tuple[Manifest, ...] = (
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {
        "apiGroups": [""],
        # Websockets are a GET to the API server, and ask for create as well since 1.35.
        "resources": ["pods/exec", "pods/portforward", "pods/attach"],
        "verbs": ["get", "create"],
    },
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
)

_ALL_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]

_NAMESPACE_RULES: tuple[Manifest, ...] = (
    {
        "apiGroups": [""],
        "resources": [
            "pods",
            "pods/attach",
            "pods/ephemeralcontainers",
            "pods/eviction",
            "pods/exec",
            "pods/log",
            "pods/portforward",
            "pods/proxy",
            "pods/status",
            "services",
            "endpoints",
            "configmaps",
            "secrets",
            "persistentvolumeclaims",
        ],
        "verbs": _ALL_VERBS,
    },
    {
        "apiGroups": ["apps"],
        "resources": ["deployments", "replicasets", "statefulsets"],
        "verbs": _ALL_VERBS,
    },
    {"apiGroups": ["batch"], "resources": ["jobs", "cronjobs"], "verbs": _ALL_VERBS},
)

ACCESS_RULES: Mapping[str, tuple[Manifest, ...]] = {
    POD_ACCESS: _POD_RULES,
    NAMESPACE_ACCESS: _NAMESPACE_RULES,
}
"""The rules of the two roles that a node's service account may be bound to."""


def cluster_role(name: str) -> Manifest:
    """Build one of the two ClusterRoles, as the shipped manifest has it."""
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {MANAGED_BY_LABEL: MANAGED_BY}},
        "rules": list(ACCESS_RULES[name]),
    }


def token_request(lifetime: float) -> Manifest:
    """Ask for a token of ``zuul-worker`` that lives so many seconds."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": int(lifetime)},
    }


def token_secret(deployment: str) -> Manifest:
    """Build the Secret that the token controller fills with a lasting token."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/service-account-token",
        "metadata": {
            "name": WORKER,
            "labels": plain_labels(deployment),
            "annotations": {"kubernetes.io/service-account.name": WORKER},
        },
    }
