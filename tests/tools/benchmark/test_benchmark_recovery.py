"""The outages of ``tools/bench --recovery``, and its table."""

from io import StringIO

from benchmark.recovery import FAULTS, Recovery, table
from rich.console import Console


def test_the_table_has_the_median_and_the_longest() -> None:
    console = Console(width=160, record=True, quiet=False, file=StringIO())
    console.print(table([Recovery(FAULTS[0], [1.0, 2.0, 9.0], [0.5, 0.25, 4.0])]))
    text = console.export_text()
    assert FAULTS[0].what in text
    assert "2.00 / 9.00" in text
    assert "0.50 / 4.00" in text


def test_both_servers_are_taken_away_in_every_way() -> None:
    ways = {(fault.service, fault.how) for fault in FAULTS}
    assert {how for _, how in ways} == {"cut", "freeze", "restart"}
    for service in ("zookeeper", "kube-apiserver"):
        assert {(service, "cut"), (service, "restart")} <= ways
        assert max(fault.seconds for fault in FAULTS if fault.service == service) > 10
