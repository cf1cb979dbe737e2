"""Kubernetes quantities: exact, and bounded."""

from __future__ import annotations

from fractions import Fraction

import pytest

from nodepool_k8s.config.quantities import kubernetes_quantity
from nodepool_k8s.quantities import LARGEST, parse_quantity


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        (2, 2),
        (0.5, Fraction(1, 2)),
        ("500m", Fraction(1, 2)),
        ("100u", Fraction(1, 10_000)),
        ("7n", Fraction(7, 10**9)),
        ("1.5Gi", 3 * 2**29),
        ("1k", 1000),
        ("2M", 2_000_000),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 10**18),
        ("12e-3", Fraction(12, 1000)),
        (".5", Fraction(1, 2)),
        ("1.", 1),
        ("-1Ki", -1024),
        ("+3", 3),
        ("0.1", Fraction(1, 10)),
    ],
)
def test_quantities_are_exact(text: str | float, amount: Fraction | int) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize("text", ["", " ", "1 Gi", "1gi", "1K", "Gi", "1e", "0x10", "nan", True])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a Kubernetes quantity"):
        parse_quantity(text)


@pytest.mark.parametrize("text", ["8Ei", "1e400", "9" * 30, "-1e19"])
def test_what_kubernetes_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="larger than Kubernetes' largest"):
        parse_quantity(text)


def test_the_largest_quantity_is_read() -> None:
    assert parse_quantity(str(LARGEST)) == LARGEST
    assert parse_quantity("4Ei") == 2**62


@pytest.mark.parametrize(
    ("text", "amount"), [("1e9", 10**9), ("1G", 10**9), ("1Gi", 2**30), ("x", None), ("4Ei", None)]
)
def test_a_configuration_reads_the_same_quantities(text: str, amount: int | None) -> None:
    assert kubernetes_quantity(text) == amount
