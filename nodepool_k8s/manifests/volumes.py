"""Volumes, where they are mounted, and the claims behind them."""

from __future__ import annotations

from nodepool_k8s.config.settings import Volume, VolumeClaim, VolumeKind, Volumes
from nodepool_k8s.manifests.object_labels import Manifest


def volumes(given: Volumes) -> list[Manifest]:
    """Build the volumes of a pod."""
    return [
        *map(dict, given.raw),
        *({"name": volume.name, **_source(volume)} for volume in given.short),
    ]


def mounts(given: Volumes) -> list[Manifest]:
    """Build the mounts of a pod's container."""
    return [
        *map(dict, given.mounts),
        *({"name": volume.name, "mountPath": volume.mount_path} for volume in given.short),
    ]


def environment(given: Volumes) -> list[Manifest]:
    """Build the variables that tell where a volume is."""
    return [{"name": "TMPDIR", "value": given.tempdir}] if given.tempdir else []


def claim(claim: VolumeClaim, metadata: Manifest) -> Manifest:
    """Build a claim, under the metadata that all of a node's objects have."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": _claim_spec(claim),
    }


def _source(volume: Volume) -> Manifest:
    if volume.template is not None:
        template = {"spec": _claim_spec(volume.template)}
        return {"ephemeral": {"volumeClaimTemplate": template}}
    if volume.kind is VolumeKind.EMPTY_DIR:
        given = {"medium": volume.medium, "sizeLimit": volume.size_limit}
        return {"emptyDir": {key: value for key, value in given.items() if value}}
    if volume.kind is VolumeKind.CONFIG_MAP:
        return {"configMap": {"name": volume.source}}
    if volume.kind is VolumeKind.SECRET:
        return {"secret": {"secretName": volume.source}}
    return {"persistentVolumeClaim": {"claimName": volume.source}}


def _claim_spec(claim: VolumeClaim) -> Manifest:
    spec: Manifest = {
        "accessModes": list(claim.access_modes),
        "resources": {"requests": {"storage": claim.size}},
    }
    # An empty one says something else than none.
    if claim.storage_class is not None:
        spec["storageClassName"] = claim.storage_class
    return spec
