"""The peer's virtual environment: Nodepool 11.0.0 with what it needs to run today.

It lacks ``cachetools`` among its own dependencies, and with kubernetes 36 or later none of
its launches succeeds: hence the versions here.
"""

from __future__ import annotations

import os
import shutil
import venv
from pathlib import Path

from cluster import ClusterError, Progress, fetching, versions

VERSION = "11.0.0"
REQUIREMENTS = (f"nodepool=={VERSION}", "kubernetes==31.0.0", "cachetools")
MARK = "complete"


class PeerError(Exception):
    """Nodepool cannot be run here; the message says why, and what it takes."""


def environment(progress: Progress) -> Path:
    """The environment's folder, which is created if it does not exist.

    Raises PeerError if Nodepool cannot be installed.
    """
    cache = versions.cache(os.environ)
    folder = cache / f"peer-nodepool-{VERSION}"
    if not _complete(folder):
        with fetching.exclusively(cache, progress):
            if not _complete(folder):
                _install(folder, progress)
    return folder


def _complete(folder: Path) -> bool:
    return (folder / MARK).exists()


def _install(folder: Path, progress: Progress) -> None:
    with progress.step(f"installing Nodepool {VERSION} into an environment of its own"):
        # A virtual environment cannot be moved, so that an interrupted one is created again.
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        try:
            fetching.run([*pip, *REQUIREMENTS], env=os.environ)
        except ClusterError as error:
            raise PeerError(
                f"Nodepool {VERSION} could not be installed into {folder}; "
                f"that takes a package index with {', '.join(REQUIREMENTS)}:\n{error}"
            ) from error
    (folder / MARK).touch()
