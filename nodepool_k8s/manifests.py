"""What one attempt at one node creates in the cluster, as plain manifests.

Owns names, labels and the text of every object. Talks to nobody: the Kubernetes
adapter posts what is built here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from nodepool_k8s.config.settings import Label, Pool, Provider
from nodepool_k8s.model import EMPTY, LabelType, empty
from nodepool_k8s.naming import NAME_LENGTH, valid_label_value, valid_name

Manifest = dict[str, Any]

POD_ACCESS = "nodepool-k8s-pod-access"
NAMESPACE_ACCESS = "nodepool-k8s-namespace-access"

WORKER = "zuul-worker"
"""The service account whose token requestors get; Nodepool's name for it."""
DEFAULT_ACCOUNT = "default"
ROOT_CA = "kube-root-ca.crt"

DEPLOYMENT_LABEL = "nodepool-k8s/deployment"
NODE_ID_LABEL = "nodepool_node_id"
PROVIDER_LABEL = "nodepool_provider_name"
POOL_LABEL = "nodepool_pool_name"
NODE_LABEL_LABEL = "nodepool_node_label"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "nodepool-k8s"

OWN_LABELS = frozenset(
    {
        DEPLOYMENT_LABEL,
        NODE_ID_LABEL,
        PROVIDER_LABEL,
        POOL_LABEL,
        NODE_LABEL_LABEL,
        MANAGED_BY_LABEL,
    }
)

KEEP_ANNOTATIONS: Mapping[str, str] = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
"""What tells autoscalers that an allocated node must stay."""

# `wait` returns as soon as TERM arrives, where a shell waiting for `sleep` itself would
# finish that first; without the trap, PID 1 ignores TERM and takes the whole grace period.
COMMAND = ("/bin/sh", "-c")
SLEEP_FOREVER = "trap 'exit 0' TERM; while true; do sleep 86400 & wait; done"

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


@dataclass(frozen=True, slots=True)
class NodeObjects:
    """Everything that one attempt at one node creates.

    ``deployment`` is the UUID that all our objects are selected by. ``dynamic_labels``
    are valid already (``policy.dynamic_labels`` made them so). ``allocated`` says that
    the node is made for a request, rather than kept ready for one to come.
    """

    deployment: str
    provider: Provider
    pool: Pool
    label: Label
    node_id: str
    attempt: int = 0
    dynamic_labels: Mapping[str, str] = field(default_factory=empty)
    allocated: bool = False

    @property
    def namespace_name(self) -> str:
        """Where this attempt's objects live."""
        return namespace_name(self.pool.name, self.node_id, self.attempt)

    @property
    def pod_name(self) -> str:
        """The label's name, as near as a pod's name allows."""
        return valid_name(self.label.name, NAME_LENGTH, also=".")

    @property
    def access_role(self) -> str:
        """The role that the node's service account is bound to."""
        return POD_ACCESS if self.label.type is LabelType.POD else NAMESPACE_ACCESS

    def own_labels(self) -> dict[str, str]:
        """Build the labels by which we, and Nodepool's users, find a node's objects."""
        return {
            NODE_ID_LABEL: valid_label_value(self.node_id),
            PROVIDER_LABEL: valid_label_value(self.provider.name),
            POOL_LABEL: valid_label_value(self.pool.name),
            NODE_LABEL_LABEL: valid_label_value(self.label.name),
            MANAGED_BY_LABEL: MANAGED_BY,
            DEPLOYMENT_LABEL: self.deployment,
        }

    def labels(self) -> dict[str, str]:
        """Build all labels; ours come last, so that no admin's can hide them."""
        return {**self.label.labels, **self.dynamic_labels, **self.own_labels()}

    def namespace(self) -> Manifest:
        """Build the node's namespace."""
        return {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace_name, "labels": self.labels()},
        }

    def service_account(self, name: str) -> Manifest:
        """Build a service account: ``default`` (the pod's own) or ``zuul-worker``."""
        return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": self._metadata(name)}

    def root_ca(self, pem: str) -> Manifest:
        """Build the ConfigMap that a pod's token volume mounts, ahead of its controller."""
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": self._metadata(ROOT_CA),
            "data": {"ca.crt": pem},
        }

    def role(self) -> Manifest:
        """Build the namespace's own role, for clusters where ClusterRoles may not be made."""
        return {
            "apiVersion": f"{RBAC}/v1",
            "kind": "Role",
            "metadata": self._metadata(self.access_role),
            "rules": list(ACCESS_RULES[self.access_role]),
        }

    def role_binding(self, kind: str) -> Manifest:
        """Bind ``zuul-worker`` to its role; ``kind`` is ClusterRole or Role."""
        return {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": self._metadata(WORKER),
            "roleRef": {"apiGroup": RBAC, "kind": kind, "name": self.access_role},
            "subjects": [
                {"kind": "ServiceAccount", "name": WORKER, "namespace": self.namespace_name}
            ],
        }

    def pod(self) -> Manifest:
        """Build the node's pod; a label's own spec goes through verbatim."""
        spec = pod_spec(self.label, self.pod_name) if self.label.spec is None else self.label.spec
        keep = KEEP_ANNOTATIONS if self.allocated else EMPTY
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.pod_name,
                "labels": self.labels(),
                "annotations": {**keep, **self.label.annotations},
            },
            "spec": spec,
        }

    def _metadata(self, name: str) -> Manifest:
        return {"name": name, "labels": _plain_labels(self.deployment)}


def namespace_name(pool: str, node_id: str, attempt: int = 0) -> str:
    """``<pool>-<node id>``; every attempt but the first adds its number.

    Never an attempt's name again: it could meet its predecessor still Terminating.
    """
    suffix = f"-{node_id}" + (f"-{attempt}" if attempt else "")
    return valid_name(pool, NAME_LENGTH - len(suffix)) + suffix


_NODE_ID = re.compile(r"-(\d{10})(?:-\d+)?$")


def node_id_in(namespace: str) -> str | None:
    """The node id in a namespace's name; None where there is none."""
    found = _NODE_ID.search(namespace)
    return found[1] if found else None


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
            "labels": _plain_labels(deployment),
            "annotations": {"kubernetes.io/service-account.name": WORKER},
        },
    }


def valid_dynamic_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Leave out what would hide our own labels."""
    return {key: value for key, value in labels.items() if key not in OWN_LABELS}


def reuse_patch(label: Label, labels: Mapping[str, str], *, pod: bool) -> Manifest:
    """Build the merge patch for a ready node's pod, or its namespace, that becomes allocated."""
    keep = KEEP_ANNOTATIONS if pod else EMPTY
    annotations = {key: value for key, value in keep.items() if key not in label.annotations}
    return {"metadata": {"labels": dict(labels), "annotations": annotations}}


def _plain_labels(deployment: str) -> dict[str, str]:
    return {MANAGED_BY_LABEL: MANAGED_BY, DEPLOYMENT_LABEL: deployment}


def pod_spec(label: Label, name: str) -> Manifest:
    """Build the spec of a pod that sleeps until it is deleted."""
    spec: Manifest = {
        "containers": [_container(label, name)],
        # A node that ended is not the node that was handed over, even if it starts again.
        "restartPolicy": "Never",
    }
    _set(spec, "nodeSelector", dict(label.node_selector))
    _set(spec, "schedulerName", label.scheduler_name)
    _set(spec, "volumes", [dict(volume) for volume in label.volumes])
    return spec


def _container(label: Label, name: str) -> Manifest:
    container: Manifest = {
        "name": name.replace(".", "-"),
        "image": label.image,
        "imagePullPolicy": label.image_pull,
        "command": list(COMMAND),
        "args": [SLEEP_FOREVER],
    }
    _set(container, "env", [{"name": key, "value": value} for key, value in label.env])
    _set(container, "resources", _resources(label))
    _set(container, "volumeMounts", [dict(mount) for mount in label.volume_mounts])
    if label.privileged is not None:
        container["securityContext"] = {"privileged": label.privileged}
    return container


def _resources(label: Label) -> Manifest:
    requests: Manifest = {}
    limits: Manifest = {}
    _set(requests, "cpu", _cores(label.cpu))
    _set(limits, "cpu", _cores(label.cpu_limit or label.cpu))
    _set(requests, "memory", _quantity(label.memory, "Mi"))
    _set(limits, "memory", _quantity(label.memory_limit or label.memory, "Mi"))
    _set(requests, "ephemeral-storage", _quantity(label.storage, "M"))
    _set(limits, "ephemeral-storage", _quantity(label.storage_limit or label.storage, "M"))
    if label.gpu and label.gpu_resource:
        requests[label.gpu_resource] = limits[label.gpu_resource] = str(label.gpu)
    resources: Manifest = {}
    _set(resources, "requests", requests)
    _set(resources, "limits", limits)
    return resources


def _cores(amount: float | None) -> str | None:
    if not amount:
        return None
    milli = Fraction(str(amount)) * 1000
    whole = -(-milli.numerator // milli.denominator)
    return f"{whole // 1000}" if whole % 1000 == 0 else f"{whole}m"


def _quantity(amount: int | None, suffix: str) -> str | None:
    return f"{amount}{suffix}" if amount else None


def _set(target: Manifest, key: str, value: Any) -> None:
    """Leave out what is not asked for, so that the cluster's own defaults apply."""
    if value:
        target[key] = value
