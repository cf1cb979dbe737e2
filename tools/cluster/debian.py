"""Debian packages: finding out which are missing, and installing them after saying so."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import fetching
from .errors import ClusterError
from .progress import Progress

POLICY = Path("/usr/sbin/policy-rc.d")


def installable() -> bool:
    """Whether `install` may succeed here."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def command(packages: Sequence[str]) -> str:
    """The command that installs them."""
    return f"sudo apt-get install --no-install-recommends {' '.join(packages)}"


def install(packages: Sequence[str], purpose: str, progress: Progress) -> None:
    """Install them as root, or raise an error with the command to run."""
    if not installable():
        raise ClusterError(f"missing {purpose}; on Debian: {command(packages)}")
    progress.say(f"installing Debian packages for {purpose}: {' '.join(packages)}")
    with progress.step(f"installing {' '.join(packages)}"), _starting_nothing():
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        fetching.run(["apt-get", "update", "-qq"], env=env)
        options = ["-qq", "-y", "--no-install-recommends"]
        fetching.run(["apt-get", "install", *options, *packages], env=env)


@contextlib.contextmanager
def _starting_nothing() -> Iterator[None]:
    # Debian's packages start their daemons when installed, unless this file forbids it; the
    # cluster starts its own. A file that is already there stays in force.
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)
