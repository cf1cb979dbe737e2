"""What a label's node counts against the quota, by Kubernetes' own arithmetic for pods."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from nodepool_k8s.config.settings import Label
from nodepool_k8s.model import CORES, EMPTY, INSTANCES, MILLI, RAM, STORAGE, LabelType, Resources
from nodepool_k8s.quantities import parse_quantity

MIB = 2**20
MB = 10**6

Amounts = dict[str, Fraction]

ONE_INSTANCE: Mapping[str, int] = {INSTANCES: MILLI}


def usage(label: Label) -> Resources:
    """Count what a node of that label requests; a namespace counts as one instance.

    Replicas count as that many instances, each with all that one has.
    """
    if label.type is LabelType.NAMESPACE:
        return Resources(ONE_INSTANCE)
    if label.spec is not None:
        return Resources({**_milli(pod_requests(label.spec)), **ONE_INSTANCE})
    amounts: dict[str, float | None] = {CORES: label.cpu, RAM: ram(label), STORAGE: label.storage}
    if label.gpu_resource:
        amounts[label.gpu_resource] = label.gpu
    amounts.update(label.extra_resources)
    named = Resources.from_numbers({name: amount or 0 for name, amount in amounts.items()})
    return (named + Resources(ONE_INSTANCE)) * label.replicas


def ram(label: Label) -> int:
    """MiB that a pod may take: its request, and what its volumes in memory hold.

    The memory limit is their bound, too; a volume without a size reaches it.
    """
    volumes, request = label.volumes, label.memory or 0
    if label.memory_limit is None:
        return request + volumes.memory
    if volumes.unbounded_memory:
        return label.memory_limit
    return min(request + volumes.memory, label.memory_limit)


def pod_requests(spec: Mapping[str, Any]) -> Amounts:
    """Sum what a pod's spec requests, in Kubernetes' names and base units.

    Invalid quantities count as zero: the API server refuses such a pod.
    """
    containers = [_requests(container) for container in _mappings(spec.get("containers"))]
    total = _largest([_sum([*containers, *_sidecars(spec)]), *_init_steps(spec)])
    total |= _pod_level(spec, total)
    return _sum([total, _amounts(spec.get("overhead"))])


def _sidecars(spec: Mapping[str, Any]) -> list[Amounts]:
    containers = _mappings(spec.get("initContainers"))
    return [_requests(container) for container in containers if _restarts(container)]


def _init_steps(spec: Mapping[str, Any]) -> Iterator[Amounts]:
    """The requests of each init container with those of the sidecars started before it."""
    running: list[Amounts] = []
    for container in _mappings(spec.get("initContainers")):
        requests = _requests(container)
        yield _sum([requests, *running])
        if _restarts(container):
            running.append(requests)


def _restarts(container: Mapping[str, Any]) -> bool:
    return container.get("restartPolicy") == "Always"


def _pod_level(spec: Mapping[str, Any], summed: Amounts) -> Amounts:
    """The pod-level requests, which replace the sum of its containers."""
    resources = _mapping(spec.get("resources"))
    limits = _amounts(resources.get("limits"))
    defaults = {name: amount for name, amount in limits.items() if name not in summed}
    return defaults | _amounts(resources.get("requests"))


def _requests(container: Mapping[str, Any]) -> Amounts:
    """Return a container's requests; a limit without a request counts as one."""
    resources = _mapping(container.get("resources"))
    return _amounts(resources.get("limits")) | _amounts(resources.get("requests"))


def _amounts(raw: Any) -> Amounts:
    amounts = {}
    for name, text in _mapping(raw).items():
        try:
            amounts[name] = parse_quantity(text)
        except ValueError:
            continue
    return amounts


def _sum(parts: list[Amounts]) -> Amounts:
    total: Amounts = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, Fraction(0)) + amount
    return total


def _largest(parts: list[Amounts]) -> Amounts:
    largest: Amounts = {}
    for part in parts:
        for name, amount in part.items():
            largest[name] = max(largest.get(name, amount), amount)
    return largest


def _milli(amounts: Amounts) -> dict[str, int]:
    """Nodepool's names and units in thousandths; whole MiB and MB, rounded up."""
    units = {"cpu": CORES, "memory": RAM, "ephemeral-storage": STORAGE}
    bytes_in = {RAM: MIB, STORAGE: MB}
    milli = {}
    for kubernetes_name, amount in amounts.items():
        name = units.get(kubernetes_name, kubernetes_name)
        if name in bytes_in:
            milli[name] = math.ceil(amount / bytes_in[name]) * MILLI
        else:
            milli[name] = math.ceil(amount * MILLI)
    return milli


def _mapping(raw: Any) -> Mapping[str, Any]:
    return raw if isinstance(raw, Mapping) else EMPTY


def _mappings(raw: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in raw if isinstance(entry, Mapping)] if _is_list(raw) else []


def _is_list(raw: Any) -> bool:
    return isinstance(raw, (list, tuple))
