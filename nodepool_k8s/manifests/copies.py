"""Copies of Secrets and ConfigMaps in a node's namespace, and how its pods use them."""

from __future__ import annotations

from collections.abc import Mapping

from nodepool_k8s.config.options.copies import SECRET
from nodepool_k8s.config.settings import Copies, CopySource
from nodepool_k8s.manifests.object_labels import Manifest
from nodepool_k8s.model import SourceContent

RESOURCES: Mapping[str, str] = {"Secret": "secrets", "ConfigMap": "configmaps"}

REGISTRY_TYPES = frozenset({"kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"})
"""The types of Secret that an image is pulled with."""
ACCOUNT_TOKEN = "kubernetes.io/service-account-token"
OPAQUE = "Opaque"


def copy(source: CopySource, content: SourceContent, metadata: Manifest) -> Manifest:
    """Build the copy of one source, under its own name."""
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": source.kind,
        "metadata": metadata,
        "data": dict(content.data),
    }
    if content.binary:
        manifest["binaryData"] = dict(content.binary)
    if source.kind == SECRET:
        # A controller removes those whose account is not in the namespace.
        manifest["type"] = OPAQUE if content.type == ACCOUNT_TOKEN else content.type or OPAQUE
    return manifest


def unfit(copies: Copies, source: CopySource, content: SourceContent) -> str:
    """Tell why a source cannot be what a label wants it for; empty where it can."""
    if source in copies.image_pull and content.type not in REGISTRY_TYPES:
        return (
            f"{source} is of the type {content.type or OPAQUE}, and images are pulled with one of "
            f"{' or '.join(sorted(REGISTRY_TYPES))}: make it by kubectl create secret "
            "docker-registry"
        )
    return ""


def environment(copies: Copies) -> list[Manifest]:
    """Build what a container's environment is filled from, later ones over earlier."""
    refs = {"Secret": "secretRef", "ConfigMap": "configMapRef"}
    return [{refs[source.kind]: {"name": source.name}} for source in copies.env]


def pull_secrets(copies: Copies) -> list[Manifest]:
    """Build the list of the Secrets that a pod's images are pulled with."""
    return [{"name": source.name} for source in copies.image_pull]
