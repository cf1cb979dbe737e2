"""What a pod runs: its command, its environment, what it is told about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.freeform import Validator
from nodepool_k8s.config.label_settings import Workload
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.review import Review
from nodepool_k8s.config.sections import Items, Section

ENV = Section(
    "a mapping with name and value (anything else needs the label's own spec)",
    {
        "name": values.env_name(),
        "value": values.scalar("text; quote it, or leave it out of the list"),
    },
    required=("name", "value"),
)

_WORD = values.scalar("text")

KEYS: Mapping[str, Validator] = {
    "env": Items("a list of mappings with name and value", ENV),
    "pod-info-env": values.switch(),
    "command": Items(
        "a list of at least one text: a program and its arguments", _WORD, empty=False
    ),
    "args": Items("a list of texts: arguments", _WORD),
    "working-dir": values.absolute_path(),
}

DEFAULTS = frozenset({"env", "pod-info-env", "working-dir"})
"""Not a command: what an image can run is the image's, and the label's, matter."""

IN_NAMESPACE: frozenset[str] = frozenset()


def check(review: Review, path: Path, label: dict[str, Any], pool: dict[str, Any]) -> None:
    """Report variables that are there twice, and tell of values that become text."""
    place = (*path, "env")
    review.unique(place, "name", "variable")
    for item_path, item in review.mappings(place):
        if isinstance(item.get("value"), (bool, int, float)):
            review.note((*item_path, "value"), "becomes text as it is written; quote it to say so")


def resolve(document: Document, path: Path, label: Mapping[str, Any]) -> Workload:
    """Take texts as they are written: ``1.10`` is not ``1.1``."""
    return Workload(
        env=tuple(
            (variable["name"], document.written((*path, "env", place, "value")))
            for place, variable in enumerate(label.get("env", ()))
        ),
        pod_info_env=label.get("pod-info-env", True),
        command=_list(document, path, label, "command"),
        args=_list(document, path, label, "args"),
        working_dir=label.get("working-dir"),
    )


def _list(
    document: Document, path: Path, label: Mapping[str, Any], key: str
) -> tuple[str, ...] | None:
    if key not in label:
        return None
    return tuple(document.written((*path, key, place)) for place in range(len(label[key])))
