"""The pod that is a node: the spec, built from a label's settings."""

from __future__ import annotations

from typing import Any

from nodepool_k8s.config.settings import Label
from nodepool_k8s.manifests import placement, workload
from nodepool_k8s.manifests.marks import Manifest
from nodepool_k8s.manifests.resources import resources


def pod_spec(label: Label, name: str) -> Manifest:
    """Build the spec of a pod that runs until it is deleted."""
    spec: Manifest = {
        "containers": [_container(label, name)],
        # A node that ended is not the node that was handed over, even if it starts again.
        "restartPolicy": "Never",
        **placement.pod_fields(label.placement),
    }
    _set(spec, "volumes", [dict(volume) for volume in label.volumes])
    return spec


def _container(label: Label, name: str) -> Manifest:
    container: Manifest = {
        "name": name.replace(".", "-"),
        "image": label.image,
        "imagePullPolicy": label.image_pull,
        **workload.process(label.workload),
    }
    _set(container, "env", workload.environment(label.workload))
    _set(container, "resources", resources(label))
    _set(container, "volumeMounts", [dict(mount) for mount in label.volume_mounts])
    if label.privileged is not None:
        container["securityContext"] = {"privileged": label.privileged}
    return container


def _set(target: Manifest, key: str, value: Any) -> None:
    """Leave out what is not asked for, so that the cluster's own defaults apply."""
    if value:
        target[key] = value
