"""Prints rows as a table for people, as lines for pipes, or as JSON for scripts.

Separate from ``common``, so that the launcher does not load rich.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

FOLD_AT = 14
"""The minimum width of a folded column: an id on two lines is hard to read."""

GAP = 2
"""Spaces between two columns; in a table, one of them is rich's divider."""


def show(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, as_json: bool) -> None:
    """Print rows: JSON with every key, or the columns (key to heading).

    On a terminal a table that fits its width, or one block per row if none fits; elsewhere
    one line per row, however long.
    """
    if as_json:
        print_json(list(rows))
        return
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
    headings = list(columns.values())
    if not sys.stdout.isatty():
        _show_lines(cells, headings)
        return
    # rich assumes a width of 80 for a dumb terminal.
    width, height = shutil.get_terminal_size()
    console = Console(width=width, height=height)
    kept = [number for number in range(len(headings)) if any(row[number] for row in cells)]
    if kept:  # On a terminal, columns that are empty in every row are omitted.
        headings = [headings[number] for number in kept]
        cells = [[row[number] for number in kept] for row in cells]
    if _least_width(cells, headings) <= console.width:
        console.print(_table(cells, headings))
    else:
        _show_blocks(console, cells, headings)


def print_json(value: object) -> None:
    """Print JSON, as every command does."""
    click.echo(json.dumps(value, indent=2))


def _show_lines(rows: list[list[str]], headings: list[str]) -> None:
    widths = _widths(rows, headings)
    for row in (headings, *rows):
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo((" " * GAP).join(padded).rstrip())


def _table(rows: list[list[str]], headings: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading, width in zip(headings, _widths(rows, headings), strict=True):
        table.add_column(Text(heading), overflow="fold", min_width=min(width, FOLD_AT))
    for row in rows:
        # Text, because brackets in a comment are not markup.
        table.add_row(*map(Text, row))
    return table


def _show_blocks(console: Console, rows: list[list[str]], headings: list[str]) -> None:
    """Print one block per row: its first column, then the others that are not empty."""
    width = max(map(len, headings)) + GAP
    for row in rows:
        console.print(Text(row[0], style="bold"))
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            if cell:
                block = Table.grid(padding=(0, GAP, 0, 0))
                block.add_column(width=width)
                block.add_column(overflow="fold")
                block.add_row(Text(f"  {heading}"), Text(cell))
                console.print(block)


def _widths(rows: list[list[str]], headings: list[str]) -> list[int]:
    return [max(map(len, column)) for column in zip(headings, *rows, strict=True)]


def _least_width(rows: list[list[str]], headings: list[str]) -> int:
    widths = _widths(rows, headings)
    return sum(min(width, FOLD_AT) for width in widths) + GAP * (len(widths) - 1)


def _cell(value: object) -> str:
    match value:
        case None:
            text = ""
        case bool():
            text = "yes" if value else "no"
        case list() | tuple():
            text = ", ".join(map(_cell, value))
        case dict():
            text = ", ".join(f"{key}: {_cell(item)}" for key, item in value.items())
        case _:
            text = str(value)
    # Texts in records must not contain control sequences or line breaks.
    return "".join(char if char.isprintable() else " " for char in text)
