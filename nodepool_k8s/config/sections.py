"""Validators of mappings with known keys and of lists, which report all that is wrong in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from voluptuous import Invalid, MultipleInvalid, Optional, Required, Schema

from nodepool_k8s.config.freeform import Validator
from nodepool_k8s.config.problems import Missing, Path, Unknown, Wrong


class Section:
    """A mapping with known keys; reports unknown and missing ones along with wrong values."""

    def __init__(
        self, expected: str, keys: Mapping[str, Validator], required: Iterable[str] = ()
    ) -> None:
        self.expected = expected
        self.keys = keys
        self._required = frozenset(required)
        self._schema = Schema(
            {Required(key) if key in self._required else Optional(key): keys[key] for key in keys}
        )

    def __call__(self, value: Any) -> Any:
        """Return the mapping; raise with everything that is wrong in it."""
        if not isinstance(value, dict):
            raise Wrong(self.expected)
        try:
            return self._schema(value)
        except MultipleInvalid as error:
            raise MultipleInvalid([self._worded(entry) for entry in error.errors]) from None

    def _worded(self, error: Invalid) -> Invalid:
        if len(error.path) != 1 or isinstance(error, (Wrong, Missing, Unknown)):
            return error
        key = str(error.path[0])
        if key in self._required:
            return Missing(key, getattr(self.keys[key], "expected", "a value"))
        return Unknown(key, self.keys)


class Items:
    """A list whose items all fit one validator; voluptuous' own stops at the first bad item."""

    def __init__(self, expected: str, item: Validator, *, empty: bool = True) -> None:
        self.expected = expected
        self._item = item
        self._empty = empty

    def __call__(self, value: Any) -> Any:
        """Return the list; raise with everything that is wrong in it."""
        if not isinstance(value, list) or (not value and not self._empty):
            raise Wrong(self.expected, hint=self._advise(value))
        errors: list[Invalid] = []
        for place, item in enumerate(value):
            try:
                self._item(item)
            except Invalid as error:
                error.prepend([place])
                errors += error.errors if isinstance(error, MultipleInvalid) else [error]
        if errors:
            raise MultipleInvalid(errors)
        return value

    def _advise(self, value: Any) -> str:
        return "begin each entry with '-'" if isinstance(value, dict) else ""


def errors_of(section: Section, data: Any) -> list[tuple[Path, Invalid]]:
    """Return everything that is wrong with the shape of ``data``, each with its place."""
    try:
        section(data)
    except MultipleInvalid as error:
        return [(_path(entry), entry) for entry in error.errors]
    except Invalid as error:
        return [(_path(error), error)]
    return []


def _path(error: Invalid) -> Path:
    # voluptuous leaves its markers (Required) among the keys.
    return tuple(part if isinstance(part, int) else str(part) for part in error.path)
