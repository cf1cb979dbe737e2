"""The command and the environment of a pod."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic, fields, raw_list
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.review import Review
from nodepool_k8s.config.sections import ListOf, Section


@dataclass(frozen=True, slots=True)
class Workload:
    """What a pod runs; where neither command nor arguments are given, it sleeps."""

    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    pod_info_env: bool = True
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    working_dir: str | None = None


ENV = Section(
    "a mapping with name and value (anything else needs the label's own spec)",
    {
        "name": values.env_name(),
        "value": values.scalar("text; quote it, or leave it out of the list"),
    },
    required=("name", "value"),
)

_WORD = values.scalar("text")


def _env(document: Document, place: Path) -> tuple[tuple[str, str], ...]:
    """Take texts as they are written: ``1.10`` is not ``1.1``."""
    return tuple(
        (variable["name"], document.text((*place, number, "value")))
        for number, variable in enumerate(document.get(place))
    )


OPTIONS = (
    Option(
        "env",
        ListOf("a list of mappings with name and value", ENV),
        field="env",
        read=_env,
        pool_default=True,
    ),
    Option("pod-info-env", values.boolean(), field="pod_info_env", pool_default=True),
    # No pool default for a command: it depends on the image, which is the label's.
    Option(
        "command",
        ListOf("a list of at least one text: a program and its arguments", _WORD, empty=False),
        field="command",
        read=raw_list,
    ),
    Option("args", ListOf("a list of texts: arguments", _WORD), field="args", read=raw_list),
    Option("working-dir", values.absolute_path(), field="working_dir", pool_default=True),
)


def check(review: Review, path: Path, label: RawLabel, pool: RawLabel) -> None:
    """Report duplicate variables, and note values that become text."""
    place = (*path, "env")
    review.check_unique(place, "name", "variable")
    for item_path, item in review.mappings(place):
        if isinstance(item.get("value"), (bool, int, float)):
            review.notice(
                (*item_path, "value"), "becomes text as it is written; quote it to say so"
            )


def resolve(document: Document, path: Path, label: RawLabel, resolved: Mapping[str, Any]) -> Fields:
    """Build the record."""
    return {"workload": Workload(**fields(OPTIONS, document, path, label))}


TOPIC = Topic(OPTIONS, resolve, check)
