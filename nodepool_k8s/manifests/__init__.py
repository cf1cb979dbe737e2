"""What one attempt at one node creates in the cluster, as plain manifests.

Owns names, labels and the text of every object. Calls no API: the Kubernetes
adapter posts what is built here.
"""

from nodepool_k8s.manifests.access import (
    ACCESS_RULES,
    NAMESPACE_ACCESS,
    POD_ACCESS,
    RBAC,
    WORKER,
    cluster_role,
    token_request,
    token_secret,
)
from nodepool_k8s.manifests.copies import RESOURCES as SOURCE_RESOURCES
from nodepool_k8s.manifests.copies import unfit
from nodepool_k8s.manifests.object_labels import (
    DEPLOYMENT_LABEL,
    DO_NOT_EVICT_ANNOTATIONS,
    NODE_ID_LABEL,
    PROVIDER_LABEL,
    Manifest,
    namespace_name,
    node_id_in,
    valid_dynamic_labels,
)
from nodepool_k8s.manifests.objects import (
    DEFAULT_ACCOUNT,
    ROOT_CA,
    NodeObjects,
    outlives_pods,
    reuse_patch,
)

__all__ = [
    "ACCESS_RULES",
    "DEFAULT_ACCOUNT",
    "DEPLOYMENT_LABEL",
    "DO_NOT_EVICT_ANNOTATIONS",
    "NAMESPACE_ACCESS",
    "NODE_ID_LABEL",
    "POD_ACCESS",
    "PROVIDER_LABEL",
    "RBAC",
    "ROOT_CA",
    "SOURCE_RESOURCES",
    "WORKER",
    "Manifest",
    "NodeObjects",
    "cluster_role",
    "namespace_name",
    "node_id_in",
    "outlives_pods",
    "reuse_patch",
    "token_request",
    "token_secret",
    "unfit",
    "valid_dynamic_labels",
]
