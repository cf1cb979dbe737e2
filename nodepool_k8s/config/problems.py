"""How a problem is worded: what was found, what was expected, what to do."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from voluptuous import Invalid

Path = tuple[str | int, ...]
"""Keys, which are always text, and indexes of lists."""

_SHOWN = 60
_PLAIN_KEY = re.compile(r"[\w-]+")


class InvalidValue(Invalid):
    """A value that does not fit; raised by validators, worded by ``Document.describe_error``.

    ``hint`` says what to write instead and may be derived from the value, so it is
    left out where the value is not to be shown. ``of_key``: the key is invalid, not its value.
    """

    def __init__(
        self, expected: str, *, hint: str = "", path: Iterable[str | int] = (), of_key: bool = False
    ) -> None:
        super().__init__(expected, list(path))
        self.expected = expected
        self.hint = hint
        self.of_key = of_key


class MissingKey(Invalid):
    """A required key that is missing."""

    def __init__(self, key: str, expected: str) -> None:
        super().__init__(f"is missing, expected {expected}", [key])


class UnknownKey(Invalid):
    """A key that is not an option here."""

    def __init__(self, key: str, known: Iterable[str]) -> None:
        super().__init__("is not an option here", [key])
        self.known = tuple(known)

    def advice(self) -> str:
        """Name the option that was probably meant, or all of them."""
        near = nearest(str(self.path[-1]), self.known)
        if near is not None:
            return f"did you mean '{near}'?"
        return f"expected one of: {', '.join(self.known)}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like this one, or None."""
    wanted = name.lower().replace("_", "-")
    by_shape = {entry.lower().replace("_", "-"): entry for entry in known}
    near = get_close_matches(wanted, by_shape, n=1)
    return by_shape[near[0]] if near else None


def shown(value: Any) -> str:
    """Format what was found, briefly and as a file's author would call it."""
    if value is None:
        return "nothing"
    kind = kind_of(value)
    if isinstance(value, (dict, list, str)) and not value:
        return "an empty " + kind.removeprefix("a ")
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= _SHOWN else f"'{value[:_SHOWN]}...'"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return _number(value)
    return kind


def kind_of(value: Any) -> str:
    """Name the kind of a value without showing the value."""
    kinds: tuple[tuple[Any, str], ...] = (
        (dict, "a mapping"),
        (list, "a list"),
        (str, "text"),
        (bool, "true or false"),
        ((int, float), "a number"),
        (datetime.date, "a date"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "nothing usable")


def _number(value: int | float) -> str:
    # Python refuses to write out an integer of thousands of digits.
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of very many digits"
    return str(value)


def path_text(path: Iterable[str | int]) -> str:
    """``providers[0].pools[1].labels[0].memory``; unusual keys go in brackets and quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else str(part)
        else:
            text += f"['{part[:_SHOWN]}']"
    return text
