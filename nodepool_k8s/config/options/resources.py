"""Resources of a pod: cores, memory, storage and their limits, GPUs, its quality of service.

``resources`` says in Kubernetes' quantities what ``cpu``, ``memory``, ``storage`` (with their
``-limit``) and ``gpu`` say in Nodepool's units. Where a label has both ways from different
places, the nearer one counts, resource by resource.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.freeform import MapOf, Validator
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.quantities import MB, MIB, kubernetes_quantity, number, whole
from nodepool_k8s.config.review import Review
from nodepool_k8s.config.sections import Choice, Section

COUNT_MAP = MapOf(
    "a mapping of resource names to whole numbers",
    values.text("a resource's name"),
    values.whole_number(0),
)

_CORES = re.compile(r"\d{1,9}(\.\d{1,9})?m?")
_BYTES = re.compile(r"\d{1,15}(\.\d{1,9})?([KMGTPE]i|[kMGTPE])")


def _quantity(expected: str, accepts: Callable[[Any], bool], advice: str = "") -> Validator:
    """One of ``resources``: a quantity for request and limit both, or a mapping of the two."""
    value = values.Value(expected, accepts, lambda value: _advise_unit(value) if advice else "")
    apart = Section(f"requests and limits, each {expected}", {"requests": value, "limits": value})
    return Choice(f"{expected}; or requests and limits", lambda one: _either(one, value, apart))


def _either(value: Any, alone: Validator, apart: Validator) -> Validator:
    return apart if isinstance(value, dict) else alone


def _advise_unit(value: Any) -> str:
    bare = number(value) is not None or (isinstance(value, str) and value.strip().isdigit())
    return f"say the unit: {value}Mi, {value}M or {value}Gi" if bare else ""


def _is_cores(value: Any) -> bool:
    text = isinstance(value, str) and _CORES.fullmatch(value)
    return (text and (kubernetes_quantity(value) or 0) >= 0.001) or (number(value) or 0) >= 0.001


def _is_bytes(value: Any) -> bool:
    text = isinstance(value, str) and _BYTES.fullmatch(value)
    return bool(text) and (kubernetes_quantity(value) or 0) >= 1


def _is_count(value: Any) -> bool:
    count = (
        int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value) else whole(value)
    )
    return count is not None and count >= 0


_SIZE = "a Kubernetes quantity with its unit, like 512Mi, 4Gi or 500M"

RESOURCES = Section(
    "a mapping with cpu, memory, storage and gpu",
    {
        "cpu": _quantity("a Kubernetes quantity of cores, like 2, 0.5 or 500m", _is_cores),
        "memory": _quantity(_SIZE, _is_bytes, "unit"),
        "storage": _quantity(_SIZE, _is_bytes, "unit"),
        "gpu": _quantity("a whole number of GPUs", _is_count),
    },
    aliases={"mem": "memory", "disk": "storage"},
)

VENDORS = ("nvidia", "amd")

OPTIONS = (
    Option("cpu", values.cores(zero=False), pool_default=True),
    Option("memory", values.mebibytes(1), pool_default=True),
    Option("storage", values.megabytes(1), pool_default=True),
    Option("cpu-limit", values.cores(zero=False), pool_default=True),
    Option("memory-limit", values.mebibytes(1), pool_default=True),
    Option("storage-limit", values.megabytes(1), pool_default=True),
    Option("resources", RESOURCES, pool_default=True, merged=True),
    Option("extra-resources", COUNT_MAP, pool_default=True, merged=True),
    Option("gpu", values.gpu_count(), pool_default=True),
    Option("gpu-resource", values.token("a resource name like nvidia.com/gpu"), pool_default=True),
    Option("gpu-vendor", values.one_of(*VENDORS), pool_default=True),
    Option("qos", values.one_of("Guaranteed", "Burstable", "BestEffort"), pool_default=True),
)

_COMPUTED = ("cpu", "memory")
"""What decides a pod's quality of service."""
_LIMITED = (*_COMPUTED, "storage")
_PLAIN = (*_LIMITED, *(f"{key}-limit" for key in _LIMITED), "gpu")
_UNITS = {"cpu": 1, "memory": MIB, "storage": MB, "gpu": 1}


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a resource's request and limit are written, None where they are not.

    ``follows`` says that a limit that is not written is what is requested.
    """

    request: Path | None = None
    limit: Path | None = None
    follows: bool = True

    def all(self) -> list[Path]:
        return [place for place in (self.request, self.limit) if place]


def _places(document: Document, path: Path, label: Mapping[str, Any], name: str) -> _Places:
    """Find what counts for a resource, whichever way it is written."""
    found = _written(document, path, label, name)
    level = label.get("qos")
    if level is None:
        return found
    # What a quality of service means overrides what is inherited from further away.
    reach = document.distance((*path, "qos"))
    further = {place for place in found.all() if document.distance(place) > reach}
    if level == "BestEffort" and name in _LIMITED:
        request, limit = (None if place in further else place for place in _pair(found))
        return _Places(request, limit)
    if level == "Burstable" and name in _LIMITED:
        limit = None if found.request and found.limit in further else found.limit
        return _Places(found.request, limit, follows=False)
    if found.request and found.limit in further:
        return _Places(found.request, None)
    return found if level != "Guaranteed" else _Places(*_pair(found))


def _pair(found: _Places) -> tuple[Path | None, Path | None]:
    return found.request, found.limit


def _written(document: Document, path: Path, label: Mapping[str, Any], name: str) -> _Places:
    keys = (name, f"{name}-limit")
    request, limit = ((*path, key) if key in label else None for key in keys)
    plain = [place for place in (request, limit) if place]
    form = (*path, "resources", name)
    value = document.get(form)
    nearest = min((document.distance(place) for place in plain), default=None)
    if value is None or (nearest is not None and nearest < document.distance(form)):
        return _Places(request, limit)
    if not isinstance(value, dict):
        return _Places(form)
    request, limit = ((*form, key) if key in value else None for key in ("requests", "limits"))
    return _Places(request, limit, follows=False)


def _amount(document: Document, place: Path | None, name: str) -> Any:
    """Read what is written at a place, in the resource's unit; memory and storage rounded up."""
    if place is None:
        return None
    value = document.get(place)
    if isinstance(value, str):
        quantity = kubernetes_quantity(value)
        value = None if quantity is None else float(quantity / _UNITS[name])
    amount = number(value)
    return amount if name == "cpu" or amount is None else math.ceil(amount)


def check_apart(review: Review, path: Path, section: RawLabel, prefix: str = "") -> None:
    """Check the options of a pool (``default-label-*``) or of a profile by themselves."""
    for key in _LIMITED:
        request, limit = f"{prefix}{key}", f"{prefix}{key}-limit"
        if request in section and limit in section and review.is_valid(path, request, limit):
            _compare(review, (*path, request), (*path, limit), key)
    stated = section.get(f"{prefix}resources")
    form = (*path, f"{prefix}resources")
    for name in RESOURCES.keys if isinstance(stated, dict) and review.is_valid(form) else ():
        least, most = (*form, name, "requests"), (*form, name, "limits")
        if None not in (review.document.get(least), review.document.get(most)):
            _compare(review, least, most, name)
    _together(review, path, section, prefix)


def check(review: Review, path: Path, label: RawLabel, pool: RawLabel) -> None:
    """Report limits below requests, GPUs without a name, and a contradicting qos."""
    if not review.is_valid(path, "resources", "qos"):
        return
    _together(review, path, label)
    for name in (*_LIMITED, "gpu"):
        places = _places(review.document, path, label, name)
        if places.request and places.limit and all(map(review.is_valid, places.all())):
            _compare_once(review, path, places.request, places.limit, name)
    _gpu(review, path, label)
    if review.is_valid(path, *_PLAIN):
        _qos(review, path, label)


def _together(review: Review, path: Path, section: RawLabel, prefix: str = "") -> None:
    document = review.document
    form = f"{prefix}resources"
    if form not in section or not isinstance(section[form], dict):
        return
    for key in _PLAIN:
        plain = (*path, f"{prefix}{key}")
        # Of options at different distances, the nearer one applies.
        both = (plain, (*path, form))
        if plain[-1] in section and not any(document.distance(place) for place in both):
            review.report(plain, f"cannot be given together with {form}: write it there")


def _compare_once(review: Review, path: Path, request: Path, limit: Path, name: str) -> None:
    """Compare, unless both come from one pool or profile, whose own check reports it."""
    origins = [review.document.origin(place) for place in (request, limit)]
    own = len(path)
    if any(origin[:own] == path for origin in origins) or origins[0][:-2] != origins[1][:-2]:
        _compare(review, request, limit, name)


def _compare(review: Review, request: Path, limit: Path, name: str) -> None:
    """Report a limit below its request, at whichever of the two stands nearer to the label."""
    document = review.document
    least, most = _amount(document, request, name), _amount(document, limit, name)
    if least is None or most is None:
        return
    if name == "gpu" and least != most:
        review.reject(
            limit, f"requests ({document.describe(request)}): GPUs have one number for both"
        )
    elif most >= least:
        return
    elif document.distance(limit) <= document.distance(request):
        said = f"{document.origin(request)[-1]} ({document.describe(request)}) or more"
        review.reject(limit, f"{said}: a limit is not below its request")
    else:
        written = document.origin(limit)
        whose = "profile" if written[0] == "profiles" else "pool"
        said = f"the {whose}'s {written[-1]} ({document.describe(limit)}) or less"
        review.reject(request, said, f"or give the label a {limit[-1]} of its own")


def _gpu(review: Review, path: Path, label: RawLabel) -> None:
    gpu = _places(review.document, path, label, "gpu")
    wanted = gpu.request or gpu.limit
    named = "gpu-resource" in label or "gpu-vendor" in label
    if wanted and not named and _amount(review.document, wanted, "gpu"):
        review.report(
            wanted,
            "needs gpu-resource beside it: the cluster's name for its GPUs, like nvidia.com/gpu; "
            f"or gpu-vendor: {' or '.join(VENDORS)}",
        )
    for key in ("gpu-resource", "gpu-vendor"):
        if not wanted and _own(review, path, label, key):
            review.notice((*path, key), "no effect without gpu")


def _own(review: Review, path: Path, label: RawLabel, key: str) -> bool:
    return key in label and review.document.distance((*path, key)) == 0


def _qos(review: Review, path: Path, label: RawLabel) -> None:
    level = label.get("qos")
    if level is None:
        return
    found = {name: _places(review.document, path, label, name) for name in _LIMITED}
    amounts = {
        name: [_amount(review.document, place, name) for place in _pair(found[name])]
        for name in _LIMITED
    }
    why = _CONTRADICTIONS[level](amounts)
    if why:
        review.report((*path, "qos"), f"{level} contradicts the resources: {why}")


Amounts = Mapping[str, list[Any]]


def _not_guaranteed(amounts: Amounts) -> str:
    for name in _COMPUTED:
        if amounts[name] == [None, None]:
            return f"it needs cpu and memory, and {name} is not given"
    for name, (request, limit) in amounts.items():
        if request is not None and limit is not None and request != limit:
            return f"the limit of {name} is not what is requested; leave it out"
    return ""


def _not_burstable(amounts: Amounts) -> str:
    computed = [amounts[name] for name in _COMPUTED]
    if all(pair == [None, None] for pair in computed):
        return "it needs cpu or memory, and neither is given"
    if all(limit is not None and request in (None, limit) for request, limit in computed):
        return "the limits are what is requested, which is Guaranteed; leave the limits out"
    return ""


def _not_best_effort(amounts: Amounts) -> str:
    given = [name for name in _COMPUTED if amounts[name] != [None, None]]
    return f"it has neither cpu nor memory, and {given[0]} is given" if given else ""


_CONTRADICTIONS: Mapping[str, Callable[[Amounts], str]] = {
    "Guaranteed": _not_guaranteed,
    "Burstable": _not_burstable,
    "BestEffort": _not_best_effort,
}


def resolve(document: Document, path: Path, label: RawLabel, resolved: Mapping[str, Any]) -> Fields:
    """Fill in what is requested and what the limit is.

    A limit without a request is requested too, as Kubernetes would have it: so quota
    counts what the pod really takes. A request without a limit is the limit too, unless
    ``resources`` gives requests alone, or the pod is to be Burstable.
    """
    amounts: Fields = {}
    for name in _LIMITED:
        amounts[name], amounts[f"{name}_limit"] = request_and_limit(document, path, label, name)
    extra = label.get("extra-resources", {})
    amounts["extra_resources"] = {name: int(amount) for name, amount in extra.items()}
    gpu = _gpus(document, path, label)
    return {**amounts, "gpu": gpu, "gpu_resource": _gpu_resource(label)}


TOPIC = Topic(OPTIONS, resolve, check)


def request_and_limit(
    document: Document, path: Path, label: RawLabel, name: str
) -> tuple[Any, Any]:
    """What is requested of cpu, memory or storage, and its limit; None for either without one."""
    places = _places(document, path, label, name)
    request, limit = (_amount(document, place, name) for place in _pair(places))
    return (
        request if request is not None else limit,
        request if limit is None and places.follows else limit,
    )


def gpu_marks(gpu: int | None, resource: str | None) -> tuple[str, ...]:
    """Labels of Kubernetes nodes that have GPUs, which a pod with ``gpu: 0`` must avoid."""
    if gpu != 0:
        return ()
    domains = [f"{vendor}.com" for vendor in VENDORS]
    return tuple(
        f"{domain}/gpu.present"
        for domain in ([resource.rpartition("/")[0] or resource] if resource else domains)
    )


def _gpus(document: Document, path: Path, label: Mapping[str, Any]) -> int | None:
    places = _places(document, path, label, "gpu")
    return whole(_amount(document, places.request or places.limit, "gpu"))


def _gpu_resource(label: Mapping[str, Any]) -> str | None:
    vendor = label.get("gpu-vendor")
    return label.get("gpu-resource") or (f"{vendor}.com/gpu" if vendor else None)
