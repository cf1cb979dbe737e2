"""Numbers as text: steps of a launch, quota in use. Plain functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodepool_k8s.model import CORES, INSTANCES, MILLI, RAM, Resources

_SHOWN = ((INSTANCES, "servers"), (CORES, "cores"), (RAM, "MiB"))


def steps(own_data: Mapping[str, Any]) -> str:
    """What each step of a launch took, as the launcher wrote it into the node's record."""
    taken = own_data.get("steps")
    found = taken.items() if isinstance(taken, Mapping) else ()
    return ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in found)


def quota(used: Resources, limits: Mapping[str, int]) -> str:
    """How much of each limited resource of a pool is in use."""
    return ", ".join(
        f"{_number(used.amount(name))} of {_number(limits[name])} {unit}"
        for name, unit in _SHOWN
        if name in limits
    )


def _number(milli: int) -> str:
    return f"{milli / MILLI:g}"
