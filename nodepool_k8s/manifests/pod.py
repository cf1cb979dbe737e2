"""The pod that is a node: the spec, built from a label's settings."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from nodepool_k8s.config.settings import Label
from nodepool_k8s.manifests.marks import Manifest

# `wait` returns as soon as TERM arrives, where a shell waiting for `sleep` itself would
# finish that first; without the trap, PID 1 ignores TERM and takes the whole grace period.
COMMAND = ("/bin/sh", "-c")
SLEEP_FOREVER = "trap 'exit 0' TERM; while true; do sleep 86400 & wait; done"


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
