"""Whether this machine can run a real node, and making it so where that takes packages only."""

import subprocess
import sys

from . import debian
from .errors import ClusterError
from .progress import Progress


def obstacle(progress: Progress) -> str:
    """What stands against a real node here; empty if nothing does."""
    return "not yet"
