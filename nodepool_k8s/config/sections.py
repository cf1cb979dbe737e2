"""Validators of mappings with known keys and of lists; they report every problem, not the first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from voluptuous import Invalid, MultipleInvalid, Optional, Required, Schema

from nodepool_k8s.config.document import Document, YamlNode
from nodepool_k8s.config.freeform import MapOf, Validator
from nodepool_k8s.config.problems import InvalidValue, MissingKey, Path, UnknownKey
from nodepool_k8s.model import EMPTY


class Section:
    """A mapping with known keys; reports unknown and missing ones along with wrong values."""

    def __init__(
        self,
        expected: str,
        keys: Mapping[str, Validator],
        required: Iterable[str] = (),
        *,
        snake_case: bool = False,
        aliases: Mapping[str, str] = EMPTY,
    ) -> None:
        self.expected = expected
        self.keys = keys
        self._meant = {**(_spellings(keys) if snake_case else EMPTY), **aliases}
        self._required = frozenset(required)
        self._schema = Schema(
            {Required(key) if key in self._required else Optional(key): keys[key] for key in keys}
        )

    def __call__(self, value: Any) -> Any:
        """Return the mapping; raise with all problems in it."""
        if not isinstance(value, dict):
            raise InvalidValue(self.expected)
        try:
            return self._schema(value)
        except MultipleInvalid as error:
            raise MultipleInvalid([self._worded(entry) for entry in error.errors]) from None

    def meant(self, key: str) -> str:
        """Return the option that a key names, in any accepted spelling."""
        return key if key in self.keys else self._meant.get(key, key)

    def _worded(self, error: Invalid) -> Invalid:
        if len(error.path) != 1 or isinstance(error, (InvalidValue, MissingKey, UnknownKey)):
            return error
        key = str(error.path[0])
        if key in self._required:
            return MissingKey(key, getattr(self.keys[key], "expected", "a value"))
        return UnknownKey(key, self.keys)


class ListOf:
    """A list whose items all fit one validator; voluptuous' own stops at the first bad item."""

    def __init__(self, expected: str, item: Validator, *, empty: bool = True) -> None:
        self.expected = expected
        self.item = item
        self._empty = empty

    def __call__(self, value: Any) -> Any:
        """Return the list; raise with all problems in it."""
        if not isinstance(value, list) or (not value and not self._empty):
            raise InvalidValue(self.expected, hint=self._advise(value))
        errors: list[Invalid] = []
        for place, item in enumerate(value):
            try:
                self.item(item)
            except Invalid as error:
                error.prepend([place])
                errors += error.errors if isinstance(error, MultipleInvalid) else [error]
        if errors:
            raise MultipleInvalid(errors)
        return value

    def _advise(self, value: Any) -> str:
        return "begin each entry with '-'" if isinstance(value, dict) else ""


class Choice:
    """A value with several forms: ``choose`` returns the validator for the form that it has."""

    def __init__(self, expected: str, choose: Callable[[Any], Validator]) -> None:
        self.expected = expected
        self._choose = choose
        """Raises ``InvalidValue`` for a value of no known form."""

    def __call__(self, value: Any) -> Any:
        """Return the value; raise with all problems in it."""
        return self._choose(value)(value)

    def chosen(self, value: Any) -> Validator | None:
        """Return the validator for a value, None where it has no known form."""
        try:
            return self._choose(value)
        except Invalid:
            return None


def respell(document: Document, check: Validator) -> None:
    """Rename each option from the spelling in the file to its own name.

    The keys keep their lines, and problems name them as they are written.
    """
    _respell(document, document.root, check)


def _respell(document: Document, node: YamlNode, check: Validator) -> None:
    within: Validator | None = check
    while isinstance(within, Choice):
        within = within.chosen(node.value)
    if isinstance(within, Section):
        for key in list(node.entries or ()):
            if within.meant(key) != key:
                document.respell(node, key, within.meant(key))
    for part, its_check in _parts(node, within):
        _respell(document, part, its_check)


def _parts(node: YamlNode, within: Validator | None) -> list[tuple[YamlNode, Validator]]:
    """The values in a collection, each with its validator."""
    entries = {name: value for name, (_, value) in (node.entries or {}).items()}
    if isinstance(within, Section):
        return [(entries[name], within.keys[name]) for name in entries if name in within.keys]
    if isinstance(within, MapOf):
        return [(value, within.value) for value in entries.values()]
    if isinstance(within, ListOf):
        return [(item, within.item) for item in node.items or ()]
    return []


def _spellings(keys: Iterable[str]) -> dict[str, str]:
    """``node_selector`` for node-selector; ``run_as_user`` and run-as-user for runAsUser."""
    found: dict[str, str] = {}
    for key in keys:
        kebab = re.sub("(?<=[a-z0-9])[A-Z]", lambda match: f"-{match[0]}", key).lower()
        found |= {kebab: key, kebab.replace("-", "_"): key}
    return found


def errors_of(section: Section, data: Any) -> list[tuple[Path, Invalid]]:
    """Return all problems with the shape of ``data``, each with its path."""
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
