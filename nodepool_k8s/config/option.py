"""What a label option and a topic of options consist of: see ``config.options``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nodepool_k8s.config.document import Document
from nodepool_k8s.config.freeform import Validator
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.review import Review

RawLabel = Mapping[str, Any]
"""A label's options in the document, by key."""
Fields = dict[str, Any]
"""Fields of a record and their values."""

Check = Callable[[Review, Path, RawLabel, RawLabel], None]
Resolve = Callable[[Document, Path, RawLabel, Mapping[str, Any]], Fields]


@dataclass(frozen=True, slots=True)
class Option:
    """One label option: a row of a topic's table."""

    key: str
    validator: Validator
    field: str = ""
    """The field of the topic's record that takes the value; empty: ``resolve`` derives it."""
    read: Callable[[Document, Path], Any] = Document.get
    """Reads the field's value from the document; by default the value as YAML has it."""
    pool_default: bool = False
    """Whether a pool may set it for its labels, as ``default-label-<key>``."""
    in_namespace: bool = False
    """Whether it has an effect on a label of the type ``namespace``; else a notice says not."""
    beside_spec: bool = False
    """Whether it may stand beside a raw ``spec``; else it is refused there."""
    in_profile: bool = True
    """Whether a profile may have it."""
    merged: bool = False
    """Whether this mapping is inherited name by name, not as a whole."""


def no_check(review: Review, path: Path, label: RawLabel, pool: RawLabel) -> None:
    """Find nothing wrong: the options of the topic are independent of each other."""


@dataclass(frozen=True, slots=True)
class Topic:
    """Options that belong together, and how they become fields of ``settings.Label``."""

    options: tuple[Option, ...]
    resolve: Resolve
    """Returns fields of ``Label``; called once for each label, and cannot fail.

    The last argument has the fields of the topics before it."""
    check: Check = no_check
    """Reports what is wrong with the topic's options in combination."""

    @property
    def keys(self) -> Mapping[str, Validator]:
        """The validators by option."""
        return validators(self.options)


def validators(options: Iterable[Option]) -> dict[str, Validator]:
    """The validators of these options by key."""
    return {option.key: option.validator for option in options}


def fields(options: Iterable[Option], document: Document, path: Path, label: RawLabel) -> Fields:
    """Read the options that the label has and whose row names a field."""
    return {
        option.field: option.read(document, (*path, option.key))
        for option in options
        if option.field and option.key in label
    }


def raw_texts(document: Document, path: Path) -> dict[str, str]:
    """Read a mapping with its values as they are written: ``1.10`` is not ``1.1``."""
    return {key: document.text((*path, key)) for key in document.get(path) or {}}


def raw_list(document: Document, path: Path) -> tuple[str, ...]:
    """Read a list with its items as they are written."""
    return tuple(document.text((*path, place)) for place in range(len(document.get(path))))
