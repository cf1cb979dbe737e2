"""The pod that is a node: the spec, built from a label's settings."""

from __future__ import annotations

from typing import Any

from nodepool_k8s.config.settings import Label
from nodepool_k8s.manifests import copies, network, placement, security, volumes, workload
from nodepool_k8s.manifests.object_labels import Manifest
from nodepool_k8s.manifests.resources import resources


def pod_spec(label: Label, name: str) -> Manifest:
    """Build the spec of a pod that runs until it is deleted."""
    spec: Manifest = {
        "containers": [_container(label, name)],
        # A node that ended is not the node that was handed over, even if it starts again.
        "restartPolicy": "Never",
        **placement.pod_fields(label.placement),
    }
    _set(spec, "serviceAccountName", label.copies.service_account)
    _set(spec, "imagePullSecrets", copies.pull_secrets(label.copies))
    _set(spec, "volumes", volumes.volumes(label.volumes))
    _set(spec, "securityContext", security.pod_context(label.security))
    return spec


def _container(label: Label, name: str) -> Manifest:
    container: Manifest = {
        "name": name.replace(".", "-"),
        "image": label.image,
        "imagePullPolicy": label.image_pull,
        **workload.process(label.workload),
    }
    _set(container, "envFrom", copies.environment(label.copies))
    _set(
        container, "env", workload.environment(label.workload) + volumes.environment(label.volumes)
    )
    _set(container, "resources", resources(label))
    _set(container, "ports", network.container_ports(label.network))
    _set(container, "volumeMounts", volumes.mounts(label.volumes))
    _set(container, "securityContext", security.container_context(label.security))
    return container


def _set(target: Manifest, key: str, value: Any) -> None:
    """Leave out what is not asked for, so that the cluster's own defaults apply."""
    if value:
        target[key] = value
