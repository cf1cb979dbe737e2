"""Numbers, durations and Kubernetes quantities, as a configuration file writes them."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

from nodepool_k8s.model import MILLI
from nodepool_k8s.quantities import parse_quantity

MIB = 2**20
MB = 10**6

# Beyond any cluster, and below where int64, and floats of whole numbers, end.
LARGEST = 10**12

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)([smhd])")


def number(value: Any) -> float | None:
    """Return a finite number of bearable size as it is, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -LARGEST <= value <= LARGEST else None


def whole(value: Any) -> int | None:
    """Return a whole number, ``1.0`` included, None for anything else."""
    amount = number(value)
    return int(amount) if amount is not None and amount == int(amount) else None


def seconds(value: Any) -> float | None:
    """Read a number of seconds, or ``90s``, ``5m``, ``12h``, ``7d``; None for anything else."""
    if not isinstance(value, str):
        amount = number(value)
        return None if amount is None else float(amount)
    match = _DURATION.fullmatch(value)
    return float(match[1]) * _UNITS[match[2]] if match else None


def thousandths(value: float) -> int:
    """Express a limit in thousandths, rounded down: a limit is never widened."""
    # 4.1 * 1000 is a little less than 4100: only a real remainder rounds down.
    return math.floor(round(value * MILLI, 6))


def kubernetes_quantity(text: str) -> Fraction | None:
    """Read a Kubernetes quantity (``4Gi``, ``500m``) in its base unit.

    None for other text, and for what is larger than the numbers of this file can say.
    """
    try:
        amount = parse_quantity(text)
    except ValueError:
        return None
    return amount if abs(amount) <= LARGEST * MB else None


def advise_whole(value: Any, unit: int, unit_name: str) -> str:
    """Say which whole number of ``unit`` bytes to write for a text, '' where none comes to mind."""
    amount = kubernetes_quantity(value) if isinstance(value, str) else None
    if amount is None or amount <= 0:
        return ""
    if value.strip().isdigit():
        return f"write {int(amount)} without quotes"
    return f"the unit is {unit_name}: write {math.ceil(amount / unit)}"


def advise_number(value: Any) -> str:
    """Say which number to write for a text, '' where none comes to mind."""
    amount = kubernetes_quantity(value) if isinstance(value, str) else None
    return "" if amount is None or amount <= 0 else f"write {float(amount):g} without quotes"
