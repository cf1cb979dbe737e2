"""The launcher as an admin starts it, but with more frequent upkeep than once a minute.

``python -m faults.quick SECONDS OPTIONS``; the options are those of ``nodepool-k8s launcher``.
"""

from __future__ import annotations

import dataclasses
import functools
import sys

from nodepool_k8s.cli import launcher
from nodepool_k8s.launcher.daemon import Launcher
from nodepool_k8s.launcher.intervals import NORMAL
from nodepool_k8s.policy import upkeep

DRAFT_PASSES = 3
"""A draft is lost after so many passes, but not later than by default."""


def main() -> None:
    """Start it."""
    seconds = float(sys.argv.pop(1))
    intervals = dataclasses.replace(NORMAL, upkeep=seconds)
    vars(launcher)["Launcher"] = functools.partial(Launcher, intervals=intervals)
    upkeep.DRAFT_SECONDS = min(upkeep.DRAFT_SECONDS, DRAFT_PASSES * seconds)
    launcher.command()


if __name__ == "__main__":
    main()
