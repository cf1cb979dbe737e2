"""How often the launcher looks at what tells nobody when it changes. All in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Intervals:
    """The admin cannot set these; a test can."""

    upkeep: float = 60.0
    """Between two passes over ZooKeeper, and over each cluster."""
    stuck: float = 60.0
    """A deletion that takes longer is reported."""
    files: float = 1.0
    """Between two looks at the configuration's files."""


NORMAL = Intervals()
