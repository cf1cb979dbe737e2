"""The kernel namespaces of a real node, which keep it from leaving traces outside.

Its mounts end with its mount namespace, its containers with its process namespace, and what
containerd, kubelet and the network plugins write into system folders by fixed names goes to an
overlay below the cluster's folder.
"""

import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

OVERLAID = ("/run", "/var/lib", "/var/log")
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def holder(folder: Path, ready: Path) -> list[str]:
    """The command that creates the namespaces, and keeps them until it is killed."""
    lines = [
        "set -e",
        *_overlays(folder),
        # As process 1 of its namespace it inherits orphans; ignoring the signal reaps them.
        "trap '' CHLD",
        f"touch {shlex.quote(str(ready))}",
        "exec sleep infinity",
    ]
    return [*_UNSHARE, "sh", "-c", "\n".join(lines)]


def inside(holder_pid: int, argv: Sequence[str]) -> list[str]:
    """`argv`, run in the namespaces that the process `holder_pid` created."""
    folder = f"/proc/{holder_pid}/ns"
    enter = f"nsenter --mount={folder}/mnt --pid={folder}/pid_for_children"
    # nsenter waits outside for the command inside. It must not end before that at a TERM to
    # both; a Go program, as they all are, takes the signal even when it starts with it ignored.
    return ["sh", "-c", f"trap '' TERM; exec {enter} \"$@\"", "nsenter", *argv]


def try_out(folder: Path, timeout: float) -> None:
    """Do what `holder` does, for a moment."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".npk8s-trial-") as scratch:
        script = "\n".join(["set -e", *_overlays(Path(scratch))])
        subprocess.run(
            [*_UNSHARE, "sh", "-c", script],
            check=True, timeout=timeout, text=True, capture_output=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip


def _overlays(folder: Path) -> list[str]:
    return [line for path in OVERLAID for line in _overlay(folder, path)]


def _overlay(folder: Path, path: str) -> list[str]:
    name = path.strip("/").replace("/", "-")
    upper, work = folder / "upper" / name, folder / "work" / name
    options = f"lowerdir={path},upperdir={upper},workdir={work}"
    made, given = shlex.join([str(upper), str(work)]), shlex.quote(options)
    return [f"mkdir -p {made}", f"mount -t overlay -o {given} overlay {path}"]
