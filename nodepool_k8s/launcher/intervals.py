"""How often the launcher polls what no event reports. All in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Intervals:
    """Not configurable; tests use shorter ones."""

    upkeep: float = 60.0
    """Between two passes over ZooKeeper, and over each backend."""
    stuck: float = 60.0
    """A deletion that takes longer is reported."""
    files: float = 1.0
    """Between two checks of the configuration's files."""


NORMAL = Intervals()
