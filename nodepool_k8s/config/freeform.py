"""Validators of free-form values: mappings with arbitrary keys, raw Kubernetes objects."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from voluptuous import Invalid, MultipleInvalid

from nodepool_k8s.config.problems import InvalidValue, MissingKey

Validator = Callable[[Any], Any]


class MapOf:
    """A mapping with arbitrary keys; checks every key and every value."""

    def __init__(self, expected: str, key: Validator, value: Validator) -> None:
        self.expected = expected
        self._key = key
        self.value = value

    def __call__(self, value: Any) -> Any:
        """Return the mapping; raise with all problems in it."""
        if not isinstance(value, dict):
            raise InvalidValue(self.expected, hint=_advise_pairs(value))
        errors: list[Invalid] = []
        for name, entry in value.items():
            errors += _tried(self._key, name, name, of_key=True)
            errors += _tried(self.value, entry, name)
        if errors:
            raise MultipleInvalid(errors)
        return value


def _tried(check: Validator, value: Any, key: str, *, of_key: bool = False) -> list[Invalid]:
    try:
        check(value)
    except MultipleInvalid as error:
        error.prepend([key])
        return list(error.errors)
    except Invalid as error:
        error.prepend([key])
        if isinstance(error, InvalidValue):
            error.of_key = of_key
        return [error]
    return []


def named_object(what: str, name: Validator, value: Any) -> Any:
    """Check an object of Kubernetes that has a name; the rest is the API server's."""
    if not isinstance(value, dict):
        raise InvalidValue(f"{what}: a mapping with a name")
    require_key("name", name, value)
    return json_value(value)


def require_key(key: str, check: Validator, value: dict[str, Any]) -> Any:
    """Check what a mapping must have under ``key``."""
    if key not in value:
        raise MissingKey(key, getattr(check, "expected", "a value"))
    try:
        return check(value[key])
    except Invalid as error:
        error.prepend([key])
        raise


def anything(value: Any) -> Any:
    """Accept anything."""
    return value


def json_value(value: Any) -> Any:
    """Accept what JSON can hold, which is how it travels to Kubernetes and ZooKeeper."""
    if isinstance(value, dict):
        MapOf("a mapping", anything, json_value)(value)
    elif isinstance(value, list):
        errors = [error for place, item in enumerate(value) for error in _tried_item(item, place)]
        if errors:
            raise MultipleInvalid(errors)
    elif not _is_json_scalar(value):
        raise InvalidValue("something that JSON can hold", hint="quote it to make it text")
    return value


def _tried_item(item: Any, place: int) -> list[Invalid]:
    try:
        json_value(item)
    except MultipleInvalid as error:
        error.prepend([place])
        return list(error.errors)
    except Invalid as error:
        error.prepend([place])
        return [error]
    return []


def _is_json_scalar(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return value.bit_length() <= 64
    return value is None or isinstance(value, str)


def _advise_pairs(value: Any) -> str:
    return "write 'key: value' lines without '-'" if isinstance(value, list) else ""
