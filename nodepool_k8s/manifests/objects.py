"""What one attempt at one node creates in the cluster, object by object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nodepool_k8s.config.settings import CopySource, Label, Pool, Provider
from nodepool_k8s.manifests import copies, network, security, volumes
from nodepool_k8s.manifests.access import (
    ACCESS_RULES,
    NAMESPACE_ACCESS,
    POD_ACCESS,
    RBAC,
    WORKER,
)
from nodepool_k8s.manifests.object_labels import (
    DEPLOYMENT_LABEL,
    DO_NOT_EVICT_ANNOTATIONS,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    NODE_ID_LABEL,
    NODE_LABEL_LABEL,
    POOL_LABEL,
    PROVIDER_LABEL,
    Manifest,
    namespace_name,
    plain_labels,
)
from nodepool_k8s.manifests.pod import pod_spec
from nodepool_k8s.model import EMPTY, LabelType, SourceContent, empty
from nodepool_k8s.names import NAME_LENGTH, valid_label_value, valid_name

DEFAULT_ACCOUNT = "default"
ROOT_CA = "kube-root-ca.crt"


Further = tuple[str, Manifest]
"""One more object of a namespace, with the resource that it is an instance of."""

RESOURCES: Mapping[str, str] = {
    **copies.RESOURCES,
    "NetworkPolicy": "networkpolicies",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Service": "services",
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
        labels = {**self.labels(), **security.namespace_labels(self.label.security)}
        return {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace_name, "labels": labels},
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

    @property
    def account(self) -> str:
        """The service account under which the node's pods run."""
        return self.label.copies.service_account or DEFAULT_ACCOUNT

    @property
    def sources(self) -> tuple[CopySource, ...]:
        """What the namespace gets copies of."""
        return self.label.copies.sources

    def before_pod(self, contents: Mapping[CopySource, SourceContent]) -> tuple[Further, ...]:
        """Build what else there is in the namespace, all of it to be there before the pods.

        ``contents`` has what each of the sources holds.
        """
        copied = [
            copies.copy(source, contents[source], self._metadata(source.name))
            for source in self.sources
        ]
        made = [*copied, *self._storage(), *self._network()]
        return tuple((RESOURCES[manifest["kind"]], manifest) for manifest in made)

    def _storage(self) -> list[Manifest]:
        return [
            volumes.claim(claim, self._metadata(claim.name)) for claim in self.label.volumes.claims
        ]

    def _network(self) -> list[Manifest]:
        asked = self.label.network
        own = self.own_labels()
        pods = {key: own[key] for key in (NODE_ID_LABEL, DEPLOYMENT_LABEL)}
        made = (
            network.policy(asked, self._metadata(network.POLICY_NAME)),
            network.service(asked, pods, self._metadata(self.pod_name)),
        )
        return [manifest for manifest in made if manifest is not None]

    @property
    def pod_names(self) -> tuple[str, ...]:
        """The names of the node's pods; commands run in the first."""
        others = (f"{self.pod_name}-{number}" for number in range(1, self.label.replicas))
        return (self.pod_name, *others)

    def pods(self) -> list[Manifest]:
        """Build the node's pods."""
        return [self.pod(name) for name in self.pod_names]

    def pod(self, name: str = "") -> Manifest:
        """Build one of the node's pods; a label's own spec goes through verbatim."""
        spec = pod_spec(self.label, self.pod_name) if self.label.spec is None else self.label.spec
        keep = DO_NOT_EVICT_ANNOTATIONS if self.allocated else EMPTY
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name or self.pod_name,
                "labels": self.labels(),
                "annotations": {**keep, **self.label.annotations},
            },
            "spec": spec,
        }

    def _metadata(self, name: str) -> Manifest:
        return {"name": name, "labels": plain_labels(self.deployment)}


def outlives_pods(label: Label) -> bool:
    """Whether a label's node has what its pods leave behind, until the namespace is gone."""
    has_claims = bool(label.volumes.claims)
    return has_claims or label.network.service_type == "LoadBalancer"


def reuse_patch(label: Label, labels: Mapping[str, str], *, pod: bool) -> Manifest:
    """Build the merge patch for a ready node's pod, or its namespace, that becomes allocated."""
    keep = DO_NOT_EVICT_ANNOTATIONS if pod else EMPTY
    annotations = {key: value for key, value in keep.items() if key not in label.annotations}
    return {"metadata": {"labels": dict(labels), "annotations": annotations}}
