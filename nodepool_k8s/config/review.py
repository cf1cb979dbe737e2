"""The problems of one file found so far, and which of its parts are valid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nodepool_k8s.config.document import Document
from nodepool_k8s.config.problems import InvalidValue, Path, path_text
from nodepool_k8s.config.sections import Section, errors_of, respell
from nodepool_k8s.errors import Problem

DRIVER = "kubernetes"


@dataclass(slots=True)
class Review:
    """Collects problems and notices about a document whose shape has been checked.

    Checks that concern several options ask ``is_valid`` first, so that one slip is
    reported once and hides nothing else.
    """

    document: Document
    problems: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    _broken: set[Path] = field(default_factory=set)

    @classmethod
    def of(cls, document: Document, section: Section) -> Review:
        """Check the document's shape."""
        respell(document, section)
        review = cls(document, list(document.problems))
        if review.problems and document.data is None:
            return review
        for path, error in errors_of(section, document.data):
            review.problems.append(document.problem(path, document.describe_error(path, error)))
            review._broken.update(path[:end] for end in range(len(path) + 1))
        return review

    def is_valid(self, path: Path, *keys: str) -> bool:
        """Whether no problem was found at ``path``, or at these keys below it."""
        places = [(*path, key) for key in keys] or [path]
        return not any(self.document.origin(place) in self._broken for place in places)

    def reject(self, path: Path, expected: str, hint: str = "") -> None:
        """Report a value: "found X, expected Y", with a hint how to correct it."""
        message = self.document.describe_error(path, InvalidValue(expected, hint=hint))
        self.problems.append(self.document.problem(path, message))

    def report(self, path: Path, message: str) -> None:
        """Report a problem that is not about a value."""
        self.problems.append(self.document.problem(path, message))

    def notice(self, path: Path, message: str) -> None:
        """Note something that has no effect, or not the effect that it seems to have."""
        self.notices.append(str(self.document.problem(path, message)))

    def location(self, path: Path) -> str:
        """``pools[0].name, line 12``: for a problem that refers to a second place."""
        written = self.document.origin(path)
        return f"{path_text(written)}, line {self.document.line(path)}"

    def mappings(self, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Every item of the list at ``path`` that is a mapping, with its place."""
        listed = self.document.get(path)
        for place, item in enumerate(listed if isinstance(listed, list) else []):
            if isinstance(item, dict):
                yield (*path, place), item

    def providers(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The providers of our driver."""
        for path, provider in self.mappings(("providers",)):
            if provider.get("driver") == DRIVER:
                yield path, provider

    def check_unique(self, path: Path, key: str, what: str) -> None:
        """Report every item of the list at ``path`` whose ``key`` an earlier item has."""
        seen: dict[str, Path] = {}
        for item_path, item in self.mappings(path):
            value = item.get(key)
            if not isinstance(value, str):
                continue
            here = (*item_path, key)
            # Kubernetes mounts /a and /a/ at the same place.
            first = seen.setdefault(value.rstrip("/") if key == "mountPath" else value, here)
            if first != here:
                said = f"a {key} that no other {what} has"
                self.reject(here, said, f"the first is {self.location(first)}")
