"""The table of ``tools/bench --scale``."""

from io import StringIO
from pathlib import Path

from benchmark.scale import CONFLICTS, Growth, Reading, Sharing, plot, table
from rich.console import Console

GROWTH = Growth(
    [
        Reading(0, 0, 1.0, 60.0, 0.0, 20.0, 10.0),
        Reading(1000, 200, 2.0, 64.0, 0.5, 21.0, 11.0),
    ],
    Sharing(50, 3),
)


def test_memory_is_told_for_each_node_above_the_empty_launcher() -> None:
    console = Console(width=160, record=True, quiet=False, file=StringIO())
    console.print(table(GROWTH))
    text = console.export_text()
    assert " 4.10 " in text  # 4 MiB over 1000 nodes, in KiB.
    assert "3 claims failed" in text


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "growth.png"
    plot(GROWTH, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_failed_claims_are_read_from_the_launchers_figures() -> None:
    text = (
        b"# TYPE nodepool_k8s_claim_conflicts_total counter\n"
        b'nodepool_k8s_claim_conflicts_total{pool="a",provider="b"} 2.0\n'
        b'nodepool_k8s_claim_conflicts_total{pool="c",provider="b"} 1.0\n'
    )
    assert [float(value) for value in CONFLICTS.findall(text)] == [2.0, 1.0]
