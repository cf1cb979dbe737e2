"""Checks of a pool's labels: options of one label that depend on each other."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from nodepool_k8s.config import options
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.review import Review
from nodepool_k8s.config.values import template_fields
from nodepool_k8s.names import is_dns_label, is_subdomain

Listed = frozenset[str] | None
"""Names of the top-level labels; None where that list itself is malformed."""

REQUEST_FIELDS = frozenset(
    {
        *("id", "labels", "requestor", "requestor_data", "relative_priority", "event_id"),
        *("created_time", "tenant_name"),
    }
)

_HINTED = 50


def listed(review: Review) -> Listed:
    """Names of the top-level labels."""
    entries = review.document.get(("labels",))
    if entries is not None and not isinstance(entries, list):
        return None
    names = [item.get("name") for _, item in review.mappings(("labels",))]
    return frozenset(name for name in names if isinstance(name, str))


def check(
    review: Review, path: Path, label: dict[str, Any], pool: dict[str, Any], known: Listed
) -> None:
    """Check one label of a pool."""
    _listed(review, path, label, known)
    _templates(review, path, label)
    if not review.is_valid(path, "type"):
        return
    if label["type"] == "namespace":
        _namespace(review, path, label, pool)
    else:
        _pod(review, path, label, pool)


def _listed(review: Review, path: Path, label: dict[str, Any], known: Listed) -> None:
    name = label.get("name")
    if known is None or not review.is_valid(path, "name") or name in known:
        return
    # Comparing with all known names is slow, and a file that is all wrong needs no more hints.
    few = len(review.problems) < _HINTED
    near = get_close_matches(str(name), known, n=1) if few else []
    hint = f"did you mean '{near[0]}'?" if near else f"add '- name: {name}' to it"
    review.reject((*path, "name"), "a label of the top-level labels list", hint)


def _templates(review: Review, path: Path, label: dict[str, Any]) -> None:
    place = (*path, "dynamic-labels")
    templates = label.get("dynamic-labels")
    if not review.is_valid(place) or not isinstance(templates, dict):
        return
    for key, template in templates.items():
        fields = template_fields(template) if isinstance(template, str) else None
        if any(not _names_request(field) for field in fields or ()):
            review.notice((*place, key), "names something that requests do not have: left out")


def _names_request(field: str) -> bool:
    root, _, rest = field.partition(".")
    return root == "request" and rest.partition(".")[0].partition("[")[0] in REQUEST_FIELDS


def _namespace(review: Review, path: Path, label: dict[str, Any], pool: dict[str, Any]) -> None:
    idle = [key for key in label if key in options.KEYS and key not in options.IN_NAMESPACE]
    if idle:
        review.notice(path, f"no effect on a namespace label: {', '.join(idle)}")
    kept = {key: label[key] for key in label if key in options.IN_NAMESPACE}
    options.check(review, path, kept, pool)


def _pod(review: Review, path: Path, label: dict[str, Any], pool: dict[str, Any]) -> None:
    if "spec" in label:
        _spec(review, path, label)
        _unsecured(review, path, pool)
        return
    if "image" not in label:
        review.report(path, "a pod label needs an image, or a spec")
    if review.is_valid(path, "name") and not is_dns_label(label["name"]):
        review.reject(
            (*path, "name"),
            "lower-case letters, digits and '-', at most 63 characters, "
            "because the pod and its container are named as the label",
        )
    options.check(review, path, label, pool)


def _unsecured(review: Review, path: Path, pool: dict[str, Any]) -> None:
    """Note that a raw spec takes none of the pool's defaults that secure a pod."""
    for key in ("network-policy", "pod-security"):
        if f"default-label-{key}" in pool:
            review.notice(path, f"the pool's {key} does not hold for a label with a spec")


def _spec(review: Review, path: Path, label: dict[str, Any]) -> None:
    for key in label:
        if key in options.KEYS and key not in options.BESIDE_SPEC:
            review.report(
                (*path, key), "cannot be given together with spec: write it into the spec"
            )
    if review.is_valid(path, "name") and not is_subdomain(label["name"]):
        review.reject(
            (*path, "name"),
            "lower-case letters, digits, '-' and '.', at most 253 characters, "
            "because the pod is named as the label",
        )
    review.check_unique((*path, "spec", "containers"), "name", "container")
