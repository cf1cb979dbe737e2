"""Kubernetes quantities (``500m``, ``1.5Gi``, ``2e3``) as exact fractions."""

from __future__ import annotations

import re
from fractions import Fraction

_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}

LARGEST = 2**63 - 1
"""Kubernetes' own; what is larger is capped there, and means nothing to anybody."""

_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40}))"
    r"(?:[eE](?P<exponent>[+-]?\d{1,3})|(?P<suffix>[KMGTPE]i|[numkMGTPE]?))"
)


def parse_quantity(text: str | int | float) -> Fraction:
    """Read a quantity as Kubernetes does, in its base unit.

    Raises ValueError for what Kubernetes would refuse, and beyond ``LARGEST``.
    """
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"{text!r:.40} is not a Kubernetes quantity")
    amount = _amount(match)
    if abs(amount) > LARGEST:
        raise ValueError(f"{text!r:.40} is larger than Kubernetes' largest quantity, 2^63 - 1")
    return amount


def _amount(match: re.Match[str]) -> Fraction:
    number = Fraction(match["number"])
    if match["exponent"] is not None:
        return number * Fraction(10) ** int(match["exponent"])
    suffix = match["suffix"]
    if suffix in _BINARY:
        return number * Fraction(2) ** _BINARY[suffix]
    return number * Fraction(10) ** _DECIMAL[suffix]
