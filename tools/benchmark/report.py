"""The table and the JSON document of a benchmark."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from benchmark.figures import FLOOR, OWN, PEER, Readings, Row, Wanted, rows

NOTHING = "-"
VERDICTS = {True: "[green]yes[/]", False: "[red]no[/]", None: NOTHING}
DOCUMENT_VERSION = 1


def table(readings: Readings, names: list[str], with_peer: bool, runs: int) -> Table:
    """One row for each quantity, medians over the runs."""
    made = Table(title=f"median of {runs} run{'s' if runs > 1 else ''}", title_justify="left")
    made.add_column("measurement")
    for heading in ("unit", "floor", OWN, "ratio", "wanted", "ok?"):
        made.add_column(heading, justify="left" if heading == "unit" else "right")
    if with_peer:
        made.add_column(PEER, justify="right")
        made.add_column("ratio", justify="right")
    for row in rows(readings, names):
        made.add_row(*_cells(row, with_peer))
    return made


def _cells(row: Row, with_peer: bool) -> list[str]:
    quantity = row.quantity
    cells = [quantity.title, quantity.unit, number(row.floor), number(row.own)]
    cells += [times(row.ratio), bound(quantity.wanted), VERDICTS[row.ok]]
    return [*cells, number(row.peer), times(row.peer_ratio)] if with_peer else cells


def number(value: float | None) -> str:
    """A number with three significant digits."""
    if value is None:
        return NOTHING
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def times(ratio: float | None) -> str:
    """``1.25 x``."""
    return NOTHING if ratio is None else f"{number(ratio)} x"


def bound(wanted: Wanted | None) -> str:
    """``<= 2.5 x``, or without the x where the bound is on the value."""
    if wanted is None:
        return NOTHING
    sign = "<=" if wanted.at_most else ">="
    return f"{sign} {wanted.limit:g}{'' if wanted.absolute else ' x'}"


def document(
    readings: Readings, names: list[str], options: dict[str, Any], failures: list[str]
) -> dict[str, Any]:
    """Everything that the table shows, with the readings of each run."""
    return {
        "version": DOCUMENT_VERSION,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "options": options,
        "failures": failures,
        "quantities": [_entry(readings, row) for row in rows(readings, names)],
    }


def _entry(readings: Readings, row: Row) -> dict[str, Any]:
    name = row.quantity.name
    entry: dict[str, Any] = {
        "name": name,
        "title": row.quantity.title,
        "unit": row.quantity.unit,
        "wanted": bound(row.quantity.wanted),
        "ok": row.ok,
    }
    for subject in (FLOOR, OWN, PEER):
        entry[subject] = readings.values(subject, name)
    entry["ratios"] = {subject: readings.ratios(subject, name) for subject in (OWN, PEER)}
    return entry
