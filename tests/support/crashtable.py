"""The tables of docs/crash-points.md: every effect, and the outcome of each kill."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.crashing import Effect

PAGE = Path(__file__).parents[2] / "docs" / "crash-points.md"

OUTLIVED, NEVER_CAME = "ok", "-"

_ROW = re.compile(r"\| `(.*)`(?: x(\d+))?(, at times)? \| (ok|-) \| (ok|-) \|")


@dataclass(frozen=True)
class Row:
    """One effect, and the outcomes of kills before and after it."""

    effect: Effect
    always: bool
    """Whether it occurs each time that its story is played."""
    before: str = OUTLIVED
    after: str = OUTLIVED


Tables = Mapping[str, Sequence[Row]]
"""Each story's rows, by its title."""


def merged(recordings: Sequence[Sequence[Effect]]) -> list[Row]:
    """The rows of a story that was recorded several times, in order of first appearance."""
    effects = dict.fromkeys(effect for recording in recordings for effect in recording)
    return [Row(effect, all(effect in each for each in recordings)) for effect in effects]


def written(tables: Tables, page: str) -> str:
    """The page with its tables replaced by these."""
    introduction = page.partition("\n## ")[0].rstrip()
    return "\n\n".join([introduction, *(_table(*entry) for entry in tables.items())]) + "\n"


def _table(title: str, rows: Sequence[Row]) -> str:
    head = [f"## {title}", "", "| effect | killed before | killed after |", "|---|---|---|"]
    return "\n".join([*head, *map(_line, rows)])


def _line(row: Row) -> str:
    again = f" x{row.effect.occurrence}" if row.effect.occurrence > 1 else ""
    sometimes = "" if row.always else ", at times"
    return f"| `{row.effect.name}`{again}{sometimes} | {row.before} | {row.after} |"


def read(page: str) -> dict[str, list[Row]]:
    """The tables of a page."""
    tables: dict[str, list[Row]] = {}
    for line in page.splitlines():
        if line.startswith("## "):
            rows = tables.setdefault(line.removeprefix("## "), [])
        elif found := _ROW.fullmatch(line):
            name, occurrence, sometimes, before, after = found.groups()
            rows.append(Row(Effect(name, int(occurrence or 1)), not sometimes, before, after))
    return tables


def differences(tables: Tables, recorded: Iterable[Effect]) -> list[str]:
    """Kinds of effects that the tables lack, and kinds in them that no longer exist."""
    rows = [row for found in tables.values() for row in found]
    known = {row.effect.kind for row in rows}
    expected = {row.effect.kind for row in rows if row.always}
    found = {effect.kind for effect in recorded}
    return [f"missing: {kind}" for kind in sorted(found - known)] + [
        f"no longer occurs: {kind}" for kind in sorted(expected - found)
    ]
