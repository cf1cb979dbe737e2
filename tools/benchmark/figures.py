"""What is measured, the wanted bounds, and the arithmetic from readings to a verdict.

Plain data and functions; nothing here measures anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

FLOOR = "floor"
OWN = "nodepool-k8s"
PEER = "nodepool"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A bound on the ratio to the floor, or (``absolute``) on the value itself."""

    limit: float
    at_most: bool = True
    absolute: bool = False

    def met(self, figure: float) -> bool:
        """Whether a figure is within the bound."""
        return figure <= self.limit if self.at_most else figure >= self.limit


@dataclass(frozen=True, slots=True)
class Quantity:
    """One line of the table. ``unit`` is also that of every reading of it."""

    name: str
    title: str
    unit: str
    wanted: Wanted | None = None


QUANTITIES = (
    Quantity("namespace-latency", "one namespace at a time, p50", "ms", Wanted(2.5)),
    Quantity("pod-latency", "one pod at a time, p50", "ms", Wanted(1.2)),
    Quantity("pod-spaced", "one pod at a time, 0.5 s apart, p50", "ms"),
    Quantity("namespace-burst", "namespaces at once", "nodes/s", Wanted(0.45, at_most=False)),
    Quantity("pod-burst", "pods at once", "nodes/s", Wanted(0.7, at_most=False)),
    Quantity("cpu-launch", "CPU for a pod node, launch", "ms", Wanted(9.0, absolute=True)),
    Quantity("cpu-total", "CPU for a pod node, with deletion", "ms", Wanted(15.0, absolute=True)),
    Quantity("gone", "pod's record gone after used, p50", "s", Wanted(0.5, absolute=True)),
    Quantity("gone-real", "the same on a real node (once), p50", "s", Wanted(3.0, absolute=True)),
    Quantity("memory-idle", "memory, idle", "MiB", Wanted(70.0, absolute=True)),
    Quantity("memory-loaded", "memory, after the bursts", "MiB", Wanted(120.0, absolute=True)),
    Quantity("load-cpu", "the load's own CPU for a pod request", "ms"),
)
NAMES = tuple(quantity.name for quantity in QUANTITIES)


@dataclass
class Readings:
    """The readings by subject and quantity: one value a run, missing if it failed."""

    _values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)

    def add(self, run: int, subject: str, found: Mapping[str, float]) -> None:
        """Note what a run showed of a subject."""
        for name, value in found.items():
            self._values.setdefault((subject, name), {})[run] = value

    def values(self, subject: str, name: str) -> list[float]:
        """In the order of the runs."""
        return [value for _, value in sorted(self._values.get((subject, name), {}).items())]

    def ratios(self, subject: str, name: str) -> list[float]:
        """To the floor of the same run, for the runs that have both."""
        floor = self._values.get((FLOOR, name), {})
        found = self._values.get((subject, name), {})
        return [found[run] / floor[run] for run in sorted(found.keys() & floor.keys())]


@dataclass(frozen=True, slots=True)
class Row:
    """A quantity with the medians of its readings; None without readings."""

    quantity: Quantity
    floor: float | None
    own: float | None
    ratio: float | None
    peer: float | None
    peer_ratio: float | None

    @property
    def ok(self) -> bool | None:
        """Whether the bound is met; None without a bound or a reading."""
        wanted = self.quantity.wanted
        if wanted is None:
            return None
        figure = self.own if wanted.absolute else self.ratio
        return None if figure is None else wanted.met(figure)


def rows(readings: Readings, names: Iterable[str] = NAMES) -> list[Row]:
    """The table's rows, in its order, for the quantities named."""
    chosen = set(names)
    return [_row(readings, quantity) for quantity in QUANTITIES if quantity.name in chosen]


def _row(readings: Readings, quantity: Quantity) -> Row:
    name = quantity.name
    return Row(
        quantity=quantity,
        floor=middle(readings.values(FLOOR, name)),
        own=middle(readings.values(OWN, name)),
        ratio=middle(readings.ratios(OWN, name)),
        peer=middle(readings.values(PEER, name)),
        peer_ratio=middle(readings.ratios(PEER, name)),
    )


def middle(values: Sequence[float]) -> float | None:
    """The median, or None without values."""
    return statistics.median(values) if values else None


def spans(orders: Sequence[Mapping[str, float]], start: str, end: str) -> list[float]:
    """Seconds from one of each order's times to another."""
    return [order[end] - order[start] for order in orders]


def rate(orders: Sequence[Mapping[str, float]]) -> float:
    """Nodes a second, from the first submission to the last fulfilment."""
    first = min(order["submitted"] for order in orders)
    last = max(order["fulfilled"] for order in orders)
    return len(orders) / (last - first)
