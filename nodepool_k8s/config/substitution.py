"""``%(NODEPOOL_X)`` from the environment, put into the text before it is read as YAML.

Keeps account of where each value went, so that problems name the lines of the file
as it was written, and values of the environment, which may be secrets, stay unsaid.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLE = re.compile(r"%\((NODEPOOL_\w*)\)")

_PRIVATE_USE = range(0xE000, 0xF8FF)


@dataclass(frozen=True, slots=True)
class Span:
    """Where a variable's value is in the new text, and where its name was in the old."""

    start: int
    end: int
    origin: int
    origin_end: int
    variable: str


@dataclass(frozen=True, slots=True)
class Substituted:
    """A text with its variables replaced.

    A variable that is not set stays as it is, with ``marker`` for its ``%``: YAML
    would refuse a value that starts with ``%``, and an admin is to hear about the variable.
    """

    source: str
    text: str
    spans: tuple[Span, ...]
    marker: str

    def variables(self, start: int, end: int) -> tuple[str, ...]:
        """Names of the variables whose values reach into ``text[start:end]``."""
        return tuple(span.variable for span in self.spans if span.start < end and span.end > start)

    def unmark(self, text: str) -> str:
        """Undo the marking of unset variables in a piece of ``text``."""
        return text.replace(self.marker, "%")

    def position(self, index: int) -> tuple[int, int]:
        """Line and column, both 1-based, in the source of what is at ``text[index]``."""
        origin = self._origin(index)
        before = self.source[:origin]
        return before.count("\n") + 1, origin - (before.rfind("\n") + 1) + 1

    def _origin(self, index: int) -> int:
        number = bisect_right([span.start for span in self.spans], index) - 1
        if number < 0:
            return index
        span = self.spans[number]
        return span.origin if index < span.end else span.origin_end + index - span.end


def substitute(text: str, environ: Mapping[str, str]) -> Substituted:
    """Replace every ``%(NODEPOOL_X)`` that ``environ`` knows."""
    pieces: list[str] = []
    spans: list[Span] = []
    marker = _unused_character(text, environ)
    length = end = 0
    for match in VARIABLE.finditer(text):
        name = match[1]
        value = environ.get(name)
        before = text[end : match.start()]
        piece = marker + match[0][1:] if value is None else value
        pieces += (before, piece)
        length += len(before) + len(piece)
        end = match.end()
        if value is not None:
            spans.append(Span(length - len(piece), length, match.start(), end, name))
    pieces.append(text[end:])
    return Substituted(text, "".join(pieces), tuple(spans), marker)


def _unused_character(text: str, environ: Mapping[str, str]) -> str:
    used = set(text).union(*(value for key, value in environ.items() if key[:9] == "NODEPOOL_"))
    return next(chr(code) for code in _PRIVATE_USE if chr(code) not in used)
