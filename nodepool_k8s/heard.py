"""What the ZooKeeper adapter tells whoever counts; nobody does in a program that only asks.

``telemetry`` puts its own functions here when it is loaded, as the launcher does.
"""

from __future__ import annotations

from collections.abc import Callable


def _nobody(*_: object) -> None:
    return


asked: Callable[[str, float], None] = _nobody
"""ZooKeeper answered an operation after so many seconds, or the connection broke."""
connected: Callable[[bool], None] = _nobody
"""The connection to ZooKeeper came or went."""
lost: Callable[[], None] = _nobody
"""The ZooKeeper session ended under us."""
