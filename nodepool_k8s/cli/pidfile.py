"""``-p``: the PID file, for init scripts."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodepool_k8s.errors import NodepoolK8sError, describe


class PidFileError(NodepoolK8sError):
    """The file cannot be written, or belongs to a running launcher."""


@contextmanager
def pid_file(path: Path) -> Iterator[None]:
    """Write our process id to the file, and remove the file at the end of the block.

    The file is locked meanwhile, so that a stale file of a dead launcher is overwritten.
    Raises PidFileError.
    """
    try:
        file = path.open("a+", encoding="ascii")
    except OSError as error:
        raise PidFileError(f"the PID file cannot be written: {describe(error)}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            other = file.read().strip() or "unknown"
            raise PidFileError(
                f"{path} belongs to a running launcher (process {other}); "
                "give each launcher its own PID file"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
