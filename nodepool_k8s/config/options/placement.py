"""Where a pod may run: node selectors, tolerations, affinity, and the classes that decide it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.freeform import MapOf, Validator
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic, fields
from nodepool_k8s.config.options import resources
from nodepool_k8s.config.problems import InvalidValue, Path
from nodepool_k8s.config.quantities import whole
from nodepool_k8s.config.review import Review
from nodepool_k8s.config.sections import Choice, ListOf, Section
from nodepool_k8s.model import empty
from nodepool_k8s.names import is_label_key, is_label_value


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a pod may run. ``tolerations`` and ``affinity`` are Kubernetes' own definitions."""

    node_selector: Mapping[str, str] = field(default_factory=empty)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    affinity: Mapping[str, Any] = field(default_factory=empty)
    without: tuple[str, ...] = ()
    """Labels that the Kubernetes node must not have."""
    runtime_class: str | None = None
    priority_class: str | None = None
    scheduler_name: str | None = None


COMPUTE_POOL_KEY = "compute-pool-key"
"""A provider's option: which label of Kubernetes nodes names their compute pool."""

DEFAULT_COMPUTE_POOL_KEY = "outerbounds.co/compute-pool"

LABEL_MAP = MapOf("a mapping of names to texts", values.label_key(), values.label_value())

_PAIR = Section(
    "a mapping with key and value",
    {"key": values.label_key(), "value": values.label_value()},
    required=("key", "value"),
)

_SELECTOR = (
    "labels of Kubernetes nodes: a mapping, a text like 'kubernetes.io/arch=amd64,disk=ssd', "
    "or a list of mappings with key and value"
)


def _selector(value: Any) -> Validator:
    if isinstance(value, list):
        return ListOf("a list of mappings with key and value", _PAIR)
    if isinstance(value, str):
        return values.Value(_SELECTOR, lambda text: _pairs(text) is not None)
    return _PAIR if _is_pair(value) else LABEL_MAP


def _is_pair(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"key", "value"}


def _pairs(text: str) -> dict[str, str] | None:
    """Read ``key=value,key=value``; None for what is not of that form, or has a key twice."""
    parts = [part.strip().partition("=") for part in text.split(",")]
    pairs = {key: value for key, _, value in parts}
    sound = all(is_label_key(key) and sign and is_label_value(value) for key, sign, value in parts)
    return pairs if sound and len(pairs) == len(parts) else None


def _kubernetes(
    expected: str, keys: Mapping[str, Validator], required: tuple[str, ...] = ()
) -> Section:
    return Section(expected, keys, required, snake_case=True)


class _Toleration(Section):
    """A toleration, by the rules of the API server, which would refuse the pod otherwise."""

    def __call__(self, value: Any) -> Any:
        super().__call__(value)
        operator = value.get("operator", "Equal")
        if not value.get("key") and operator != "Exists":
            raise InvalidValue("Exists, because there is no key", path=["operator"])
        if operator == "Exists" and value.get("value"):
            raise InvalidValue("no value beside operator: Exists", path=["value"])
        if "tolerationSeconds" in value and value.get("effect") != "NoExecute":
            raise InvalidValue(
                "no such seconds without effect: NoExecute, as the API server would refuse the pod",
                hint="leave them out, or say effect: NoExecute",
                path=["tolerationSeconds"],
            )
        return value


_TOLERATION = _Toleration(
    "a toleration: a mapping with key, operator, value and effect",
    {
        "key": values.label_key(),
        "operator": values.one_of("Exists", "Equal"),
        "value": values.label_value(),
        "effect": values.one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
        "tolerationSeconds": values.whole_number(of="seconds"),
    },
    snake_case=True,
)


class _Requirement(Section):
    """What a label's value must be, by the rules of the API server."""

    def __call__(self, value: Any) -> Any:
        super().__call__(value)
        operator, wanted = value["operator"], value.get("values") or []
        if operator in ("In", "NotIn") and not wanted:
            raise InvalidValue(f"at least one value for operator: {operator}", path=["values"])
        if operator in ("Exists", "DoesNotExist") and wanted:
            raise InvalidValue(f"no values beside operator: {operator}", path=["values"])
        if operator in ("Gt", "Lt") and not (len(wanted) == 1 and _is_integer(wanted[0])):
            raise InvalidValue(
                f"a list of one whole number for operator: {operator}", path=["values"]
            )
        return value


def _is_integer(value: Any) -> bool:
    text = str(value).removeprefix("-")
    return not isinstance(value, bool) and text.isascii() and text.isdigit()


def _requirements(*operators: str, key: Validator) -> ListOf:
    """``matchExpressions``."""
    return ListOf(
        "a list of requirements, each with key, operator and values",
        _Requirement(
            "a requirement: a mapping with key, operator and values",
            {
                "key": key,
                "operator": values.one_of(*operators),
                "values": ListOf("a list of texts", values.label_value()),
            },
            required=("key", "operator"),
            snake_case=True,
        ),
    )


_TERM = _kubernetes(
    "a term: a mapping with matchExpressions or matchFields",
    {
        "matchExpressions": _requirements(
            *("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"), key=values.label_key()
        ),
        "matchFields": _requirements("In", "NotIn", key=values.one_of("metadata.name")),
    },
)

_WEIGHT = values.Value(
    "a whole number from 1 to 100", lambda value: 1 <= (whole(value) or 0) <= 100
)

_LABEL_SELECTOR = _kubernetes(
    "a label selector: a mapping with matchLabels or matchExpressions",
    {
        "matchLabels": LABEL_MAP,
        "matchExpressions": _requirements(
            *("In", "NotIn", "Exists", "DoesNotExist"), key=values.label_key()
        ),
    },
)

_POD_TERM = _kubernetes(
    "a term: a mapping with labelSelector and topologyKey",
    {
        "labelSelector": _LABEL_SELECTOR,
        "topologyKey": values.label_key(),
        "namespaces": ListOf("a list of namespaces", values.dns_label("a namespace's name")),
        "namespaceSelector": _LABEL_SELECTOR,
        "matchLabelKeys": ListOf("a list of keys of labels", values.label_key()),
        "mismatchLabelKeys": ListOf("a list of keys of labels", values.label_key()),
    },
    required=("topologyKey",),
)

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"

_NODE_AFFINITY = _kubernetes(
    f"a mapping with {_REQUIRED} or {_PREFERRED}",
    {
        _REQUIRED: _kubernetes(
            "a mapping with nodeSelectorTerms",
            {"nodeSelectorTerms": ListOf("a list of at least one term", _TERM, empty=False)},
            required=("nodeSelectorTerms",),
        ),
        _PREFERRED: ListOf(
            "a list of mappings with weight and preference",
            _kubernetes(
                "a mapping with weight and preference",
                {"weight": _WEIGHT, "preference": _TERM},
                required=("weight", "preference"),
            ),
        ),
    },
)

_POD_AFFINITY = _kubernetes(
    f"a mapping with {_REQUIRED} or {_PREFERRED}",
    {
        _REQUIRED: ListOf("a list of terms", _POD_TERM),
        _PREFERRED: ListOf(
            "a list of mappings with weight and podAffinityTerm",
            _kubernetes(
                "a mapping with weight and podAffinityTerm",
                {"weight": _WEIGHT, "podAffinityTerm": _POD_TERM},
                required=("weight", "podAffinityTerm"),
            ),
        ),
    },
)

AFFINITY = _kubernetes(
    "a Kubernetes affinity: a mapping with nodeAffinity, podAffinity or podAntiAffinity",
    {
        "nodeAffinity": _NODE_AFFINITY,
        "podAffinity": _POD_AFFINITY,
        "podAntiAffinity": _POD_AFFINITY,
    },
)

_COMPUTE_POOL = values.Value(
    "the name of a compute pool: at most 63 letters, digits, '-', '_' and '.'",
    lambda value: isinstance(value, str) and bool(value) and is_label_value(value),
)


def check(review: Review, path: Path, label: RawLabel, pool: RawLabel) -> None:
    """Report a key that is selected twice, or that contradicts ``compute-pool``."""
    if not review.is_valid(path, "node-selector", "compute-pool"):
        return
    place = (*path, "node-selector")
    review.check_unique(place, "key", "pair")
    key, pool_name = _compute_pool_key(review.document, path), label.get("compute-pool")
    selected = _node_selector(review.document, place).get(key)
    if None not in (pool_name, selected) and pool_name != selected:
        said = f"a compute pool like that of node-selector, which says {key}={selected}"
        review.reject((*path, "compute-pool"), said, "leave one of them out")


def resolve(document: Document, path: Path, label: RawLabel, resolved: Mapping[str, Any]) -> Fields:
    """Combine the options that select Kubernetes nodes."""
    selector = _node_selector(document, (*path, "node-selector"))
    if "compute-pool" in label:
        selector[_compute_pool_key(document, path)] = label["compute-pool"]
    placement = Placement(
        node_selector=selector,
        without=resources.gpu_marks(resolved["gpu"], resolved["gpu_resource"]),
        **fields(OPTIONS, document, path, label),
    )
    return {"placement": placement}


def _compute_pool_key(document: Document, path: Path) -> str:
    # A label's path begins with its provider's.
    key = document.get((*path[:2], COMPUTE_POOL_KEY))
    return key if isinstance(key, str) else DEFAULT_COMPUTE_POOL_KEY


def _node_selector(document: Document, place: Path) -> dict[str, str]:
    """Read any of its forms, each value as it is written: ``1.10`` is not ``1.1``."""
    value = document.get(place)
    if isinstance(value, str):
        return _pairs(value) or {}
    if isinstance(value, list):
        places = [(*place, item) for item in range(len(value))]
    elif _is_pair(value):
        places = [place]
    else:
        return {key: document.text((*place, key)) for key in value or {}}
    return {document.text((*item, "key")): document.text((*item, "value")) for item in places}


_NUMBERS = ("weight", "tolerationSeconds")


def _texts(document: Document, place: Path) -> Any:
    """Copy a piece of Kubernetes' own, with texts as they are written where it wants texts."""
    value = document.get(place)
    if isinstance(value, dict):
        return {key: _texts(document, (*place, key)) for key in value}
    if isinstance(value, list):
        return [_texts(document, (*place, item)) for item in range(len(value))]
    if value is None or isinstance(value, str):
        return value
    return whole(value) if place[-1] in _NUMBERS else document.text(place)


def _tolerations(document: Document, place: Path) -> tuple[Mapping[str, Any], ...]:
    return tuple(_texts(document, place))


OPTIONS = (
    Option("node-selector", Choice(_SELECTOR, _selector), pool_default=True),
    Option("compute-pool", _COMPUTE_POOL, pool_default=True),
    Option(
        "tolerations",
        ListOf("a list of Kubernetes tolerations", _TOLERATION),
        field="tolerations",
        read=_tolerations,
        pool_default=True,
    ),
    Option("affinity", AFFINITY, field="affinity", read=_texts, pool_default=True),
    Option(
        "runtime-class",
        values.subdomain("the name of a RuntimeClass"),
        field="runtime_class",
        pool_default=True,
    ),
    Option(
        "priority-class",
        values.subdomain("the name of a PriorityClass"),
        field="priority_class",
        pool_default=True,
    ),
    Option(
        "scheduler-name",
        values.token("the name of a scheduler"),
        field="scheduler_name",
        pool_default=True,
    ),
)

TOPIC = Topic(OPTIONS, resolve, check)
