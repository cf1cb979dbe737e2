"""The user that a pod runs as, and its privileges.

Pod Security Admission refuses a pod by its own rules; what they forbid of the options here
is refused with them, so that no launch has to find out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic, fields, validators
from nodepool_k8s.config.options.volume_forms import is_short
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.quantities import whole
from nodepool_k8s.config.review import Review
from nodepool_k8s.config.sections import Section


@dataclass(frozen=True, slots=True)
class Security:
    """``security-context`` with its single options, and ``pod-security``.

    None where nothing is asked for.
    """

    privileged: bool | None = None
    allow_privilege_escalation: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    fs_group: int | None = None
    pod_security: str | None = None


LEVEL_PREFIX = "pod-security.kubernetes.io/"


def _id(document: Document, place: Path) -> int | None:
    return whole(document.get(place))


CONTEXT_OPTIONS = (
    Option("privileged", values.boolean(), pool_default=True),
    Option("allow-privilege-escalation", values.boolean(), pool_default=True),
    Option("run-as-user", values.numeric_id("user"), read=_id, pool_default=True),
    Option("run-as-group", values.numeric_id("group"), read=_id, pool_default=True),
    Option("run-as-non-root", values.boolean(), pool_default=True),
    Option("fs-group", values.numeric_id("group"), read=_id, pool_default=True),
)
"""The keys of ``security-context``; each is an option by itself, too."""
CONTEXT_KEYS = validators(CONTEXT_OPTIONS)

CONTEXT = Section(f"a mapping with any of {', '.join(CONTEXT_KEYS)}", CONTEXT_KEYS, snake_case=True)

OPTIONS = (
    Option("security-context", CONTEXT),
    *CONTEXT_OPTIONS,
    Option(
        "pod-security",
        values.one_of("privileged", "baseline", "restricted"),
        field="pod_security",
        pool_default=True,
        in_namespace=True,
    ),
)

_BASELINE_BARS = frozenset({"hostPath"})
_RESTRICTED_ALLOWS = frozenset(
    {
        *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"),
        *("projected", "secret"),
    }
)
"""The kinds of volume that the level ``restricted`` lets a pod have."""


def check(review: Review, path: Path, label: RawLabel, pool: RawLabel) -> None:
    """Report contradictions, and options that the label's own ``pod-security`` forbids."""
    _twice(review, path, label)
    _escalation(review, path, label)
    _root(review, path, label)
    if "pod-security" in label and review.is_valid(path, "pod-security"):
        _level(review, path, label, label["pod-security"])
        _level_labels(review, path, label)


def resolve(document: Document, path: Path, label: RawLabel, resolved: Mapping[str, Any]) -> Fields:
    """Build the record; an option by itself and in ``security-context`` say the same."""
    context = {
        option.key.replace("-", "_"): option.read(document, place)
        for option in CONTEXT_OPTIONS
        if (place := _nearest(document, path, label, option.key)) is not None
    }
    return {"security": Security(**context, **fields(OPTIONS, document, path, label))}


TOPIC = Topic(OPTIONS, resolve, check)


def _nearest(document: Document, path: Path, label: Mapping[str, Any], key: str) -> Path | None:
    """The path of ``key`` that applies: by itself or in ``security-context``, the nearer one."""
    alone, context = (*path, key), (*path, "security-context")
    inner = label.get("security-context")
    if not isinstance(inner, dict) or key not in inner:
        return alone if key in label else None
    if key in label and document.distance(alone) <= document.distance(context):
        return alone
    return (*context, key)


def _given(review: Review, path: Path, label: RawLabel, key: str) -> Path | None:
    """The path of the value of ``key`` that applies, if it is valid."""
    place = _nearest(review.document, path, label, key)
    return place if place is not None and review.is_valid(place) else None


def _value(review: Review, path: Path, label: RawLabel, key: str) -> Any:
    place = _given(review, path, label, key)
    return None if place is None else review.document.get(place)


def _twice(review: Review, path: Path, label: RawLabel) -> None:
    """Report an option with different values by itself and in ``security-context``."""
    outer, context = (*path, "security-context"), label.get("security-context")
    if not isinstance(context, dict):
        return
    for key in context:
        alone, inner = (*path, key), (*outer, key)
        if key not in CONTEXT_KEYS or key not in label or context[key] == label[key]:
            continue
        apart = review.document.distance(alone) != review.document.distance(outer)
        if not apart and review.is_valid(inner) and review.is_valid(alone):
            review.reject(inner, f"what {review.location(alone)} says", "give it once")


def _escalation(review: Review, path: Path, label: RawLabel) -> None:
    place = _given(review, path, label, "allow-privilege-escalation")
    if place is None or review.document.get(place) is not False:
        return
    if _value(review, path, label, "privileged") is True:
        review.reject(place, "true, or nothing: the label is privileged, and that is the most")


def _root(review: Review, path: Path, label: RawLabel) -> None:
    place = _given(review, path, label, "run-as-user")
    if place is None or review.document.get(place) != 0:
        return
    if _value(review, path, label, "run-as-non-root") is True:
        review.reject(place, "1 or more: run-as-non-root is true, and 0 is root")


def _level(review: Review, path: Path, label: RawLabel, level: str) -> None:
    because = f"because pod-security is {level}"
    for key, allowed, expected in _barred(level):
        place = _given(review, path, label, key)
        if place is not None and not allowed(review.document.get(place)):
            review.reject(place, f"{expected}, {because}")
    for place, volume in review.mappings((*path, "volumes")):
        kinds = [kind for kind in volume if kind != "name" and _is_barred(kind, level)]
        # The short form has no kind that a level forbids.
        if kinds and not is_short(volume):
            review.report((*place, kinds[0]), f"is a kind of volume that is forbidden, {because}")


def _barred(level: str) -> Iterator[tuple[str, Any, str]]:
    if level in ("baseline", "restricted"):
        yield "privileged", lambda value: value is False, "false"
    if level == "restricted":
        yield "allow-privilege-escalation", lambda value: value is False, "false"
        yield "run-as-non-root", lambda value: value is True, "true"
        yield "run-as-user", lambda value: value != 0, "1 or more"


def _is_barred(kind: str, level: str) -> bool:
    if level == "restricted":
        return kind not in _RESTRICTED_ALLOWS
    return level == "baseline" and kind in _BASELINE_BARS


def _level_labels(review: Review, path: Path, label: RawLabel) -> None:
    """Report other options that set the labels of ``pod-security``."""
    for option in ("labels", "dynamic-labels"):
        labels = label.get(option)
        for key in labels if isinstance(labels, dict) else ():
            if isinstance(key, str) and key.startswith(LEVEL_PREFIX):
                review.report((*path, option, key), "cannot be given together with pod-security")
