"""The table of ``tools/bench --run``."""

from io import StringIO

from benchmark.runs import KUBECTL, MADE, READY, Runs, table
from rich.console import Console


def test_medians_are_told_beside_kubectls() -> None:
    runs = Runs({READY: [0.4, 0.5, 9.0], MADE: [1.5], KUBECTL: [2.0, 2.0]})
    assert (runs.share(READY), runs.share(MADE)) == (0.25, 0.75)
    console = Console(width=160, record=True, file=StringIO())
    console.print(table(runs))
    text = console.export_text()
    assert " 0.50 " in text
    assert "at most 0.5" in text
