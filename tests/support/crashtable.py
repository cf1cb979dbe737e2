"""The tables of docs/crash-points.md: which effects there are, and that each death was outlived."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.crashing import Effect

PAGE = Path(__file__).parents[2] / "docs" / "crash-points.md"

Rows = Mapping[str, Sequence[Effect]]
"""Each story's effects, by its title."""


def written(rows: Rows, page: str) -> str:
    """The page with the tables as they are after every crash point was played."""
    introduction = page.partition("\n## ")[0].rstrip()
    return "\n\n".join([introduction, *(_table(*row) for row in rows.items())]) + "\n"


def _table(title: str, effects: Sequence[Effect]) -> str:
    lines = [f"| {_cell(effect)} | ok | ok |" for effect in effects]
    head = [f"## {title}", "", "| effect | died before | died after |", "|---|---|---|"]
    return "\n".join([*head, *lines])


def differences(rows: Rows, page: str) -> list[str]:
    """What the page lacks, and what it has that is no more."""
    there = {f"{title}: {_cell(effect)}" for title, found in rows.items() for effect in found}
    shown = set(_shown(page))
    return [f"missing: {entry}" for entry in sorted(there - shown)] + [
        f"no more: {entry}" for entry in sorted(shown - there)
    ]


def _shown(page: str) -> list[str]:
    shown, title = [], ""
    for line in page.splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
        found = re.fullmatch(r"\| (`.*) \| ok \| ok \|", line)
        if found:
            shown.append(f"{title}: {found[1]}")
    return shown


def _cell(effect: Effect) -> str:
    again = f" x{effect.occurrence}" if effect.occurrence > 1 else ""
    return f"`{effect.name}`{again}"
