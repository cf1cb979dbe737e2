"""``tools/bench --run``: a command on a node of its own, against ``kubectl run --rm``.

``true``, again and again on a real node: from the command line to the exit. With ready nodes
(``min-ready``), without, and by kubectl on the same cluster with the same image. They take
turns, so that drift of the machine affects all three.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cluster import Progress
from harness import nodepool_yaml, yamlfile
from harness.launcher import CONNECTED, LauncherEnded, command
from rich.table import Table

from benchmark import launchers
from benchmark.errors import BenchmarkError
from benchmark.launchers import Place, Recipe

READY, MADE, KUBECTL = "run, with min-ready", "run, without", "kubectl run --rm"
WANTED = {READY: 0.5, MADE: 1.0}
"""Of kubectl's median, at most."""
MIN_READY = 4
ROUND = 20
"""Runs in a row before the next way's turn."""
WITHIN_S = 120.0
POD = "nodepool-k8s-bench-run"


@dataclass
class Runs:
    """Seconds that each run took, by the way to run it."""

    seconds: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in (READY, MADE, KUBECTL)}
    )

    def median(self, name: str) -> float:
        """Seconds."""
        return statistics.median(self.seconds[name])

    def share(self, name: str) -> float:
        """Of kubectl's median."""
        return self.median(name) / self.median(KUBECTL)


def measure(place: Place, progress: Progress, count: int) -> Runs:
    """Run ``true`` that often in each way, on a cluster with a real node that is up."""
    if shutil.which("kubectl") is None:
        raise BenchmarkError("kubectl is missing; it is needed for the comparison")
    runs = Runs()
    recipe = _recipe(place)
    ways = {
        READY: _own(recipe, "ready"),
        MADE: _own(recipe, "made"),
        KUBECTL: _kubectl(place),
    }
    launcher = recipe.start()
    try:
        asyncio.run(launcher.logged(CONNECTED, WITHIN_S))
        _ask(ways[MADE], "the first run", WITHIN_S)
        for begun in range(0, count, ROUND):
            for name, argv in ways.items():
                size = min(ROUND, count - begun)
                with progress.step(f"{name}: {begun + size} of {count}"):
                    runs.seconds[name] += [_ask(argv, name, WITHIN_S) for _ in range(size)]
    except (BenchmarkError, LauncherEnded, TimeoutError) as error:
        raise BenchmarkError(f"{error}\n{launcher.tail()}") from error
    finally:
        launcher.end()
    return runs


def _ask(argv: Callable[[], list[str]], name: str, within: float) -> float:
    environ = {key: value for key, value in os.environ.items() if "NODEPOOL_K8S" not in key}
    command = argv()
    begun = time.monotonic()
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
            env=environ,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{name} did not end within {within:g} s") from error
    if done.returncode:
        raise BenchmarkError(f"{name} ended with status {done.returncode}: {done.stderr}")
    return time.monotonic() - begun


def _own(recipe: Recipe, label: str) -> Callable[[], list[str]]:
    program = shutil.which("nodepool-k8s", path=str(Path(sys.executable).parent))
    start = [program] if program else [sys.executable, "-m", "nodepool_k8s"]
    command = [*start, "run", "--zookeeper", recipe.hosts, label, "--", "true"]
    return lambda: command


def _kubectl(place: Place) -> Callable[[], list[str]]:
    numbers = iter(range(1, 10**6))
    base = ["kubectl", "--kubeconfig", place.kubeconfig, "--context", place.context]

    def command() -> list[str]:
        name = f"{POD}-{next(numbers)}"
        asked = ["run", name, "--rm", "-i", "--restart=Never", f"--image={place.image}"]
        return [*base, *asked, "--image-pull-policy=IfNotPresent", "--command", "--", "true"]

    return command


def _recipe(place: Place) -> Recipe:
    """A launcher with a label that has ready nodes, and one whose nodes are created."""
    chroot = "runs"
    pod = {"type": "pod", "image": place.image, "image-pull": "IfNotPresent"}
    pool = {
        "name": launchers.POOL,
        "max-servers": 50,
        "labels": [{"name": "ready", **pod}, {"name": "made", **pod}],
    }
    document = nodepool_yaml.document(
        [nodepool_yaml.server(place.zookeeper, f"/{chroot}")],
        [{"name": "bench", "pools": [pool]}],
        context=place.context,
        labels=[{"name": "ready", "min-ready": MIN_READY}, {"name": "made"}],
    )
    path = place.folder / "runs.yaml"
    yamlfile.replace(path, document)
    return Recipe(
        name="nodepool-k8s",
        hosts=f"{place.zookeeper}/{chroot}",
        argv=tuple(command(path)),
        kubeconfig=place.kubeconfig,
        log=place.folder / "runs.log",
    )


def table(runs: Runs) -> Table:
    """The measurements as a table."""
    made = Table(title="From the command line to the exit of `true`, on a real node")
    for title in ("", "runs", "median s", "90 % s", "of kubectl's", "wanted"):
        made.add_column(title, justify="right" if title else "left")
    for name, seconds in runs.seconds.items():
        most = sorted(seconds)[int(len(seconds) * 0.9)] if len(seconds) > 1 else seconds[0]
        wanted = f"at most {WANTED[name]:g}" if name in WANTED else ""
        median = f"{runs.median(name):.2f}"
        made.add_row(
            name, str(len(seconds)), median, f"{most:.2f}", f"{runs.share(name):.2f}", wanted
        )
    return made
