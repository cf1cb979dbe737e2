"""The two forms of a list: JSON, and a table of text as Nodepool draws it.

Both are made in pieces, and other tasks run between two of them: ten thousand rows take a
second.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from enum import Enum
from typing import TypeVar

from nodepool_k8s.presentation import Row

T = TypeVar("T")

PIECE = 20
"""Rows between two yields to the event loop: a millisecond or two of work."""


class Format(Enum):
    """A form of a list; the values are content types."""

    TEXT = "text/plain"
    JSON = "application/json"


_OFFERED = {
    # A browser gets text as well, as it does from Nodepool.
    "text/html": Format.TEXT,
    "text/plain": Format.TEXT,
    "application/json": Format.JSON,
}

OFFERED = "text/plain, application/json"
"""The content types, for an error message."""


def wanted_format(accept: str | None) -> Format | None:
    """The form that an Accept header prefers; text without one, None where it accepts none.

    Text wins a tie.
    """
    if accept is None or not accept.strip():
        return Format.TEXT
    ranges = dict(_media_ranges(accept))
    found = {kind: _quality(ranges, kind) for kind in _OFFERED}
    best = max(found, key=lambda kind: found[kind])
    return _OFFERED[best] if found[best] > 0 else None


_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


def _media_ranges(accept: str) -> Iterable[tuple[str, float]]:
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        if _QUALITY.fullmatch(quality):
            yield kind, float(quality)


def _quality(ranges: Mapping[str, float], kind: str) -> float:
    """The quality of a content type: that of the most specific range which matches it."""
    family = kind.partition("/")[0] + "/*"
    return next((ranges[name] for name in (kind, family, "*/*") if name in ranges), 0.0)


# --- encoding ----------------------------------------------------------------------------


async def encoded(rows: Iterable[Row], columns: Mapping[str, str] | None, form: Format) -> bytes:
    """Rows as bytes.

    ``columns`` are the keys to show, with their headings; None is every key (JSON only).
    """
    if form is Format.JSON:
        return await _json(rows, columns)
    assert columns is not None
    return await _table(rows, columns)


async def _json(rows: Iterable[Row], columns: Mapping[str, str] | None) -> bytes:
    pieces = []
    async for row in _in_pieces(rows):
        pieces.append(dump({key: row[key] for key in columns} if columns else row))
    return b"[" + b", ".join(pieces) + b"]"


def dump(value: object) -> bytes:
    """Strict JSON, as bytes."""
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError:
        # NaN and Infinity, which Python reads from a record, are not JSON.
        return json.dumps(json.loads(json.dumps(value), parse_constant=str)).encode()


async def _table(rows: Iterable[Row], columns: Mapping[str, str]) -> bytes:
    widths = [len(heading) for heading in columns.values()]
    table = []
    async for row in _in_pieces(rows):
        cells = [_cell(row[key]) for key in columns]
        widths = [max(width, len(cell)) for width, cell in zip(widths, cells, strict=True)]
        table.append(cells)
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule, _line(list(columns.values()), widths), rule]
    async for cells in _in_pieces(table):
        lines.append(_line(cells, widths))
    lines.append(rule)
    return "\n".join(lines).encode(errors="backslashreplace")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        text = ",".join(map(str, value))
    elif isinstance(value, dict):
        text = json.dumps(value)
    else:
        text = str(value)
    # A line break in a comment must not look like another row.
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


async def _in_pieces(items: Iterable[T]) -> AsyncIterator[T]:
    for number, item in enumerate(items, 1):
        yield item
        if number % PIECE == 0:
            await asyncio.sleep(0)
