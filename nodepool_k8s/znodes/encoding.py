"""JSON of records, and the checks that every kind of record shares."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from nodepool_k8s.errors import MalformedRecord

DRIVER_KEY = "nodepool_k8s"
"""Our key in a node's ``driver_data``, and in a request for the reasons of a refusal."""


def decode(data: bytes, what: str) -> dict[str, Any]:
    if not data:
        raise MalformedRecord(f"{what} is empty; expected a JSON object")
    try:
        value = _loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedRecord(f"{what} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise MalformedRecord(f"{what} holds a {type(value).__name__}; expected a JSON object")
    if data.count(b"[") + data.count(b"{") > DEEPEST and _is_deep(value):
        raise MalformedRecord(f"{what} is nested more than {DEEPEST} deep")
    return value


def _loads(data: bytes) -> Any:
    value = json.loads(data.decode())
    if b"\\u" not in data:
        return value
    # JSON can hold half of a surrogate pair, which cannot be encoded to a path, a terminal or
    # another record. Replace it with a question mark.
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


DEEPEST = 100
"""Maximum nesting of a record, because code that walks its values is recursive."""


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
    return bool(level)


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def string_tuple(value: object, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):  # Nodepool once wrote a node's type as a plain string.
        return (value,)
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return tuple(value)
    raise MalformedRecord(f"{what} is {value!r:.80}; expected a list of strings")


def optional_string(value: object) -> str | None:
    return value if isinstance(value, str) else None


LARGEST = 1e15
"""Largest number taken: Python's JSON also reads NaN, Infinity and any number of digits."""


def optional_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -LARGEST <= value <= LARGEST else None


def thousandths(value: object, what: str) -> dict[str, int]:
    if not isinstance(value, dict) or not all(map(_is_amount, value.values())):
        raise MalformedRecord(f"{what} is {value!r:.80}; expected whole thousandths by name")
    return value


def _is_amount(value: object) -> bool:
    # A negative amount would make room in the quota that does not exist.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST
