"""The number of pods of a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic, fields
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.quantities import whole
from nodepool_k8s.config.review import Review
from nodepool_k8s.names import NAME_LENGTH


def _count(document: Document, place: Path) -> int | None:
    return whole(document.get(place))


OPTIONS = (Option("replicas", values.whole_number(1, of="pods"), field="replicas", read=_count),)


def check(review: Review, path: Path, label: RawLabel, pool: RawLabel) -> None:
    """Report replicas whose names would not fit: a pod's host name is cut after 63."""
    name, count = label.get("name"), label.get("replicas")
    if count is None or not review.is_valid(path, "replicas", "name") or not isinstance(name, str):
        return
    longest = f"{name}-{int(count) - 1}" if count > 1 else name
    if len(longest) > NAME_LENGTH:
        review.reject(
            (*path, "replicas"),
            f"1, or a label with a name of at most {NAME_LENGTH - len(longest) + len(name)} "
            f"characters: the last pod would be named {longest}",
        )


def resolve(document: Document, path: Path, label: RawLabel, resolved: Mapping[str, Any]) -> Fields:
    """Return the number of pods."""
    return fields(OPTIONS, document, path, label)


TOPIC = Topic(OPTIONS, resolve, check)
