import json

import pytest
from benchmark import report
from benchmark.figures import FLOOR, OWN, PEER, Readings, Wanted
from rich.console import Console


@pytest.fixture
def readings() -> Readings:
    made = Readings()
    for run in (1, 2, 3):
        made.add(run, FLOOR, {"namespace-latency": 16.0, "cpu-launch": 2.0})
        made.add(run, OWN, {"namespace-latency": 32.0, "cpu-launch": 9.5})
        made.add(run, PEER, {"namespace-latency": 3040.0})
    return made


def shown(readings: Readings, names: list[str], with_peer: bool) -> list[list[str]]:
    console = Console(width=160, force_terminal=False)
    with console.capture() as captured:
        console.print(report.table(readings, names, with_peer, runs=3))
    lines = [line for line in captured.get().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_the_table_shows_medians_ratios_and_verdicts(readings: Readings) -> None:
    names = ["namespace-latency", "cpu-launch", "gone"]
    assert shown(readings, names, with_peer=True) == [
        [
            *("one namespace at a time, p50", "ms", "16.0", "32.0", "2.00 x", "<= 2.5 x", "yes"),
            *("3040", "190 x"),
        ],
        [
            *("CPU for a pod node, launch", "ms", "2.00", "9.50", "4.75 x", "<= 9", "no"),
            *("-", "-"),
        ],
        [
            *("pod's record gone after used, p50", "s", "-", "-", "-", "<= 0.5", "-"),
            *("-", "-"),
        ],
    ]


def test_without_the_peer_its_columns_are_left_out(readings: Readings) -> None:
    (row,) = shown(readings, ["namespace-latency"], with_peer=False)
    assert row[-1] == "yes"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0345, "0.03"), (9.994, "9.99"), (38.04, "38.0"), (180.4, "180")],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_bounds_say_what_they_bound() -> None:
    assert report.bound(Wanted(0.45, at_most=False)) == ">= 0.45 x"
    assert report.bound(Wanted(70.0, absolute=True)) == "<= 70"
    assert report.bound(None) == "-"


def test_the_document_has_every_reading(readings: Readings) -> None:
    made = report.document(readings, ["namespace-latency"], {"runs": 3}, ["one thing"])
    again = json.loads(json.dumps(made))
    (entry,) = again["quantities"]
    assert entry[FLOOR] == [16.0, 16.0, 16.0]
    assert entry["ratios"] == {OWN: [2.0, 2.0, 2.0], PEER: [190.0, 190.0, 190.0]}
    assert entry["ok"] is True
    assert again["failures"] == ["one thing"]
