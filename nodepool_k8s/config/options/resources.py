"""What a pod takes: ``cpu``, ``memory``, ``storage`` and their limits, GPUs, extra resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.freeform import Entries, Validator
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.quantities import whole
from nodepool_k8s.config.review import Review

COUNT_MAP = Entries(
    "a mapping of resource names to whole numbers",
    values.text("a resource's name"),
    values.whole_number(0),
)

KEYS: Mapping[str, Validator] = {
    "cpu": values.cores(zero=False),
    "memory": values.mebibytes(1),
    "storage": values.megabytes(1),
    "cpu-limit": values.cores(zero=False),
    "memory-limit": values.mebibytes(1),
    "storage-limit": values.megabytes(1),
    "extra-resources": COUNT_MAP,
    "gpu": values.gpu_count(),
    "gpu-resource": values.word("a resource name like nvidia.com/gpu"),
}

DEFAULTS = frozenset(KEYS)

IN_NAMESPACE: frozenset[str] = frozenset()

_LIMITED = ("cpu", "memory", "storage")


def check_apart(review: Review, path: Path, section: dict[str, Any], prefix: str = "") -> None:
    """Check what a pool (its ``default-label-*``), or a profile, says without any label."""
    for key in _LIMITED:
        request, limit = f"{prefix}{key}", f"{prefix}{key}-limit"
        if request in section and limit in section and review.sound(path, request, limit):
            _compare(review, (*path, request), (*path, limit))


def check(review: Review, path: Path, label: dict[str, Any], pool: dict[str, Any]) -> None:
    """Report limits below requests, and GPUs without a name."""
    for key in _LIMITED:
        _limit(review, path, label, key)
    _gpu(review, path, label)


def _limit(review: Review, path: Path, label: dict[str, Any], key: str) -> None:
    request, limit = (*path, key), (*path, f"{key}-limit")
    if not {key, f"{key}-limit"} <= label.keys() or not review.sound(path, key, f"{key}-limit"):
        return
    # Where both were written in one place elsewhere, that place's own check has told.
    written = {review.document.origin(place)[:-1] for place in (request, limit)}
    if len(written) == 2 or written == {path}:
        _compare(review, request, limit)


def _compare(review: Review, request: Path, limit: Path) -> None:
    """Report a limit below its request, at whichever of the two stands nearer to the label."""
    document = review.document
    if document.get(limit) >= document.get(request):
        return
    if document.distance(limit) <= document.distance(request):
        said = f"{document.origin(request)[-1]} ({document.found(request)}) or more"
        review.wrong(limit, f"{said}: a limit is not below its request")
    else:
        written = document.origin(limit)
        whose = "profile" if written[0] == "profiles" else "pool"
        said = f"the {whose}'s {written[-1]} ({document.found(limit)}) or less"
        review.wrong(request, said, f"or give the label a {limit[-1]} of its own")


def _gpu(review: Review, path: Path, label: dict[str, Any]) -> None:
    if "gpu" in label and "gpu-resource" not in label:
        review.say(
            (*path, "gpu"),
            "needs gpu-resource beside it: the cluster's name for its GPUs, like nvidia.com/gpu",
        )
    elif "gpu" not in label and _own(review, path, label, "gpu-resource"):
        review.note((*path, "gpu-resource"), "no effect without gpu")


def _own(review: Review, path: Path, label: dict[str, Any], key: str) -> bool:
    return key in label and review.document.distance((*path, key)) == 0


def resolve(document: Document, path: Path, label: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in, for a limit, what is requested, where there is no limit.

    A limit without a request is requested too, as Kubernetes would have it: so
    quota counts what the pod really takes.
    """
    amounts: dict[str, Any] = {}
    for key in _LIMITED:
        request, limit = label.get(key), label.get(f"{key}-limit")
        amounts[key] = request if request is not None else limit
        amounts[f"{key}_limit"] = limit if limit is not None else request
    for key in ("memory", "memory_limit", "storage", "storage_limit"):
        amounts[key] = whole(amounts[key])
    extra = label.get("extra-resources", {})
    amounts["extra_resources"] = {name: int(amount) for name, amount in extra.items()}
    return {**amounts, "gpu": whole(label.get("gpu")), "gpu_resource": label.get("gpu-resource")}
