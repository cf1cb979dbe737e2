"""What an Accept header asks for, and rows as JSON and as text."""

import asyncio
import json
from typing import Any

import pytest

from nodepool_k8s.web import formats
from nodepool_k8s.web.formats import Format

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, Format.TEXT),
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        (BROWSER, Format.TEXT),
        ("text/*", Format.TEXT),
        ("text/plain", Format.TEXT),
        ("application/json", Format.JSON),
        ("APPLICATION/JSON; charset=utf-8", Format.JSON),
        ("application/*", Format.JSON),
        ("application/json, text/plain, */*", Format.TEXT),
        ("application/json, */*;q=0.1", Format.JSON),
        ("text/plain;q=0.5, application/json;q=0.7", Format.JSON),
        ("text/*;q=0, */*", Format.JSON),
        ("application/json;q=0", None),
        ("image/png", None),
        ("application/json;q=banana", None),
        ("application/json;q=nan", None),
        (",;=,q=1", None),
    ],
)
def test_the_accept_header_chooses_the_form(accept: str | None, expected: Format | None) -> None:
    assert formats.wanted_format(accept) is expected


COLUMNS = {"id": "ID", "labels": "Labels", "note": "Note"}


def text(*rows: dict[str, Any]) -> list[str]:
    return asyncio.run(formats.encoded(rows, COLUMNS, Format.TEXT)).decode().splitlines()


def test_a_table_is_drawn_as_nodepool_draws_it() -> None:
    assert text(
        {"id": "1", "labels": ["a", "b"], "note": None, "more": 1},
        {"id": "0000000002", "labels": [], "note": {"by": "ann"}},
    ) == [
        "+------------+--------+---------------+",
        "| ID         | Labels | Note          |",
        "+------------+--------+---------------+",
        "| 1          | a,b    |               |",
        '| 0000000002 |        | {"by": "ann"} |',
        "+------------+--------+---------------+",
    ]


def test_a_table_without_rows_has_its_headings() -> None:
    assert text() == [
        "+----+--------+------+",
        "| ID | Labels | Note |",
        "+----+--------+------+",
        "+----+--------+------+",
    ]


def test_a_comment_cannot_pretend_to_be_another_row() -> None:
    rows = text({"id": "1", "labels": [], "note": "over\n| 2 |\x1b[2J\x00 there \ud800"})
    assert rows[3] == r"| 1  |        | over | 2 | [2J  there   |"
    assert len(rows) == 5


def parsed(*rows: dict[str, Any], columns: dict[str, str] | None = None) -> Any:
    body = asyncio.run(formats.encoded(rows, columns, Format.JSON))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(body, parse_constant=refuse)


def test_json_has_every_key_or_those_that_were_named() -> None:
    row = {"id": "1", "labels": ["a"], "note": "é\ud800", "more": None}
    assert parsed() == []
    assert parsed(row, row) == [row, row]
    assert parsed(row, columns={"note": "Note", "id": "ID"}) == [{"note": row["note"], "id": "1"}]


def test_what_is_not_json_becomes_text() -> None:
    row = {"id": "1", "labels": [float("nan"), {"deep": float("-inf")}]}
    assert parsed(row) == [{"id": "1", "labels": ["NaN", {"deep": "-Infinity"}]}]


@pytest.mark.parametrize("form", list(Format))
def test_others_get_their_turn_while_a_long_list_is_made(form: Format) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.create_task(others())
        rows = ({"id": str(number), "labels": [], "note": ""} for number in range(10_000))
        await formats.encoded(rows, COLUMNS, form)
        task.cancel()

    asyncio.run(main())
    assert turns >= 10_000 // formats.PIECE
