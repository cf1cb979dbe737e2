"""What a container requests, and its limits, in Kubernetes' quantities."""

from __future__ import annotations

from fractions import Fraction

from nodepool_k8s.config.settings import Label
from nodepool_k8s.manifests.object_labels import Manifest


def resources(label: Label) -> Manifest:
    """Build a container's ``resources``; what is not asked for is not there."""
    requests = _amounts(label.cpu, label.memory, label.storage)
    limits = _amounts(label.cpu_limit, label.memory_limit, label.storage_limit)
    if label.gpu and label.gpu_resource:
        requests[label.gpu_resource] = limits[label.gpu_resource] = str(label.gpu)
    both = {"requests": requests, "limits": limits}
    return {key: amounts for key, amounts in both.items() if amounts}


def _amounts(cpu: float | None, memory: int | None, storage: int | None) -> dict[str, str]:
    amounts = {
        "cpu": _cores(cpu) if cpu else None,
        "memory": f"{memory}Mi" if memory else None,
        "ephemeral-storage": f"{storage}M" if storage else None,
    }
    return {name: amount for name, amount in amounts.items() if amount}


def _cores(amount: float) -> str:
    milli = Fraction(str(amount)) * 1000
    whole = -(-milli.numerator // milli.denominator)
    return f"{whole // 1000}" if whole % 1000 == 0 else f"{whole}m"
