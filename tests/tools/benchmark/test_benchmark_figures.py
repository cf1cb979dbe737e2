import pytest
from benchmark.errors import BenchmarkError
from benchmark.figures import (
    FLOOR,
    NAMES,
    OWN,
    PEER,
    QUANTITIES,
    Readings,
    Wanted,
    middle,
    rate,
    rows,
    spans,
)
from benchmark.measures import STEPS, steps_for


@pytest.mark.parametrize(
    ("wanted", "figure", "met"),
    [
        (Wanted(2.5), 2.5, True),
        (Wanted(2.5), 2.51, False),
        (Wanted(0.45, at_most=False), 0.45, True),
        (Wanted(0.45, at_most=False), 0.44, False),
    ],
)
def test_a_bound_includes_its_limit(wanted: Wanted, figure: float, met: bool) -> None:
    assert wanted.met(figure) is met


def test_the_median_of_nothing_is_nothing() -> None:
    assert middle([]) is None
    assert middle([3.0, 1.0, 2.0]) == 2.0


def test_ratios_pair_the_readings_of_one_run() -> None:
    readings = Readings()
    readings.add(1, FLOOR, {"pod-latency": 100.0})
    readings.add(2, FLOOR, {"pod-latency": 200.0})
    readings.add(3, FLOOR, {"pod-latency": 400.0})
    # The second run of the launcher failed: it is in no ratio.
    readings.add(1, OWN, {"pod-latency": 110.0})
    readings.add(3, OWN, {"pod-latency": 480.0})
    assert readings.ratios(OWN, "pod-latency") == pytest.approx([1.1, 1.2])
    assert readings.values(FLOOR, "pod-latency") == [100.0, 200.0, 400.0]


def test_a_ratio_is_the_median_of_the_ratios() -> None:
    readings = Readings()
    for run, (floor, own) in enumerate([(10.0, 10.0), (20.0, 60.0), (30.0, 60.0)]):
        readings.add(run, FLOOR, {"pod-latency": floor})
        readings.add(run, OWN, {"pod-latency": own})
    (row,) = rows(readings, ["pod-latency"])
    assert row.ratio == pytest.approx(2.0)
    assert (row.floor, row.own) == (20.0, 60.0)
    assert row.ok is False


def test_an_absolute_bound_needs_no_floor() -> None:
    readings = Readings()
    readings.add(1, OWN, {"memory-idle": 60.0})
    readings.add(1, PEER, {"memory-idle": 164.0})
    (row,) = rows(readings, ["memory-idle"])
    assert row.ok is True
    assert row.ratio is None
    assert row.peer == 164.0


def test_what_was_not_measured_has_no_verdict() -> None:
    assert [row.ok for row in rows(Readings())] == [None] * len(QUANTITIES)


def test_rows_keep_the_order_of_the_table() -> None:
    chosen = ["gone", "namespace-latency"]
    assert [row.quantity.name for row in rows(Readings(), chosen)] == ["namespace-latency", "gone"]


def test_rate_and_spans_come_from_the_orders_times() -> None:
    orders = [
        {"submitted": 10.0, "fulfilled": 11.0},
        {"submitted": 10.5, "fulfilled": 12.0},
    ]
    assert rate(orders) == pytest.approx(1.0)
    assert spans(orders, "submitted", "fulfilled") == pytest.approx([1.0, 1.5])


def test_every_quantity_on_fake_nodes_has_its_step() -> None:
    for name in NAMES:
        assert len(steps_for([name])) == (0 if name == "gone-real" else 1)
    assert steps_for(NAMES) == list(STEPS)


def test_an_unknown_quantity_is_named() -> None:
    with pytest.raises(BenchmarkError, match="speed"):
        steps_for(["speed"])
