"""The page of what a label can ask for: every row is about options, and ticked by tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nodepool_k8s.config import schema

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "label-options.md"

ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in PAGE.read_text().splitlines()
    if re.match(r"\| .*`", line)
]
TICKED = [row for row in ROWS if row[0] == "✓"]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def defined() -> set[str]:
    sources = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    return {
        name for text in sources for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.M)
    }


def test_the_page_has_the_whole_table() -> None:
    assert len(ROWS) >= 23
    assert all(len(row) == 4 for row in ROWS)
    assert [row[1] for row in ROWS if row not in TICKED] == []


@pytest.mark.parametrize("row", TICKED, ids=lambda row: row[1])
def test_a_tick_has_tests_that_exist(row: list[str]) -> None:
    assert names(row[3])
    assert set(names(row[3])) - defined() == set()


@pytest.mark.parametrize("row", TICKED, ids=lambda row: row[1])
def test_a_tick_is_at_options_that_labels_have(row: list[str]) -> None:
    assert set(names(row[1])) - set(schema.LABEL.keys) == set()
