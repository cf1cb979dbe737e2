"""The peer's virtual environment: Nodepool 11.0.0 with what it needs to run today.

It lacks ``cachetools`` among its own dependencies, and with kubernetes 36 or later none of
its launches succeeds: hence the versions here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from pathlib import Path

from cluster import Progress

from benchmark.errors import BenchmarkError

VERSION = "11.0.0"
REQUIREMENTS = (f"nodepool=={VERSION}", "kubernetes==31.0.0", "cachetools")
MARK = "complete"
ERROR_TAIL = 2000


def environment(progress: Progress) -> Path:
    """The environment's folder; it is made where it isn't there yet."""
    folder = _cache() / f"peer-nodepool-{VERSION}"
    if not (folder / MARK).exists():
        with progress.step(f"installing Nodepool {VERSION} into an environment of its own"):
            _make(folder)
    return folder


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nodepool-k8s"


def _make(folder: Path) -> None:
    # A virtual environment cannot be moved, so that an interrupted one is made anew.
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    done = subprocess.run([*pip, *REQUIREMENTS], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"could not install the peer:\n{done.stderr[-ERROR_TAIL:]}")
    (folder / MARK).touch()
