"""``tools/bench --scale``: what merely exists must cost next to nothing.

For ever more nodes in use and requests waiting at quota: a launcher's start-up, its memory,
its CPU while nothing happens, and the time and CPU for one more request. Then, with the
largest crowd, how often two launchers that share the waiting requests get in each other's way.
"""

from __future__ import annotations

import re
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster import Progress
from rich.table import Table

from benchmark import launchers
from benchmark.crowd import LABEL, POOL, Crowd
from benchmark.errors import BenchmarkError
from benchmark.figures import spans
from benchmark.launchers import Launcher, Place, Recipe
from benchmark.report import number
from benchmark.requestor import Requestor

SIZES = (100, 1000, 3000, 10000)
QUICK_SIZES = (100, 500)
WAITING_SHARE = 0.2
"""Requests that wait for each node in use."""
ONE_MORE = 30
"""Requests, one at a time, of which the median is taken."""
IDLE_S = 20.0
SETTLE_S = 5.0
WITHIN_S = 120.0
RETURNED = 50
"""Nodes that come back while two launchers wait for their places."""
MS = 1000.0
POLL_S = 0.05

CONFLICTS = re.compile(rb"^nodepool_k8s_claim_conflicts_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Reading:
    """One size of crowd. Times in ms but for ``start`` (s), memory in MiB, idle in % of a core."""

    nodes: int
    waiting: int
    start: float
    memory: float
    idle: float
    latency: float
    cpu: float


@dataclass(frozen=True)
class Sharing:
    """Two launchers, waiting requests that both want, and claims that failed for that."""

    served: int
    conflicts: int


@dataclass
class Growth:
    """Everything that was read."""

    readings: list[Reading]
    sharing: Sharing


def measure(place: Place, progress: Progress, *, quick: bool) -> Growth:
    """Read all of it, on a cluster that is up."""
    readings = []
    sizes = QUICK_SIZES if quick else SIZES
    sharing = Sharing(0, 0)
    for number_, nodes in enumerate((0, *sizes)):
        title = f"{nodes} nodes in use, {int(nodes * WAITING_SHARE)} requests waiting"
        with progress.step(title), _crowd(place, number_, nodes) as (recipes, crowd):
            readings.append(_read(recipes[0], nodes))
            if nodes == sizes[-1]:
                sharing = _share(recipes, crowd)
    return Growth(readings, sharing)


@contextmanager
def _crowd(place: Place, run: int, nodes: int) -> Iterator[tuple[list[Recipe], Crowd]]:
    recipes = [_recipe(place, f"scale-{run}", each, nodes) for each in (1, 2)]
    Requestor(recipes[0].hosts).close()  # It makes the chroot.
    crowd = Crowd(recipes[0].hosts)
    try:
        crowd.use_nodes(nodes)
        crowd.wait(int(nodes * WAITING_SHARE))
        yield recipes, crowd
    finally:
        crowd.close()


def _recipe(place: Place, chroot: str, which: int, nodes: int) -> Recipe:
    """A launcher with a pool that is full, and one that has room."""
    port = launchers.free_port()
    label = {"name": LABEL, "type": "namespace"}
    crowded = {"name": POOL, "max-servers": max(nodes, 1), "labels": [label]}
    return launchers.own_with(place, chroot, f"{chroot}-{which}", crowded, port)


def _read(recipe: Recipe, nodes: int) -> Reading:
    requestor = Requestor(recipe.hosts)
    launcher = None
    try:
        begun = time.monotonic()
        launcher = recipe.start()
        requestor.launch("namespace", 1, at_once=False, within=WITHIN_S)
        start = time.monotonic() - begun
        # Not for an event: there is none for a process that has nothing left to do.
        time.sleep(SETTLE_S)
        memory, idle = launcher.memory(), _idle(launcher)
        before = launcher.cpu()
        orders = requestor.launch("namespace", ONE_MORE, at_once=False, within=WITHIN_S)["orders"]
        cpu = (launcher.cpu() - before) / ONE_MORE
        requestor.release(WITHIN_S)
    except BenchmarkError as error:
        raise BenchmarkError(f"{error}\n{launcher.tail() if launcher else ''}") from error
    finally:
        if launcher is not None:
            launcher.stop()
        requestor.close()
    latency = statistics.median(spans(orders, "submitted", "fulfilled"))
    waiting = int(nodes * WAITING_SHARE)
    return Reading(nodes, waiting, start, memory, idle, latency * MS, cpu * MS)


def _idle(launcher: Launcher) -> float:
    before = launcher.cpu()
    time.sleep(IDLE_S)
    return (launcher.cpu() - before) / IDLE_S * 100


def _share(recipes: list[Recipe], crowd: Crowd) -> Sharing:
    """Return nodes to a pool that two launchers serve; both want each place."""
    both = [recipe.start() for recipe in recipes]
    try:
        for recipe in recipes:
            _until(partial(_tells, recipe), "a launcher's figures")
        time.sleep(SETTLE_S)
        before, waiting = sum(_conflicts(recipe) or 0 for recipe in recipes), crowd.waiting()
        crowd.return_nodes(RETURNED)
        _until(lambda: crowd.waiting() <= waiting - RETURNED, "the waiting requests served")
        after = sum(_conflicts(recipe) or 0 for recipe in recipes)
        return Sharing(RETURNED, int(after - before))
    finally:
        for launcher in both:
            launcher.stop()


def _conflicts(recipe: Recipe) -> float | None:
    """Claims of that launcher that failed as somebody was faster; None before it tells."""
    try:
        with urllib.request.urlopen(f"{recipe.web}/metrics", timeout=POLL_S * 20) as answer:
            text = answer.read()
    except OSError:
        return None
    return sum(float(value) for value in CONFLICTS.findall(text))


def _tells(recipe: Recipe) -> bool:
    return _conflicts(recipe) is not None


def _until(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not check():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"waited in vain for {what}")
        time.sleep(POLL_S)


# --- what is shown ------------------------------------------------------------------------

HEADINGS = (
    "nodes in use",
    "requests waiting",
    "start to first node, s",
    "memory, MiB",
    "KiB a node",
    "idle, % of a core",
    "one more, ms",
    "its CPU, ms",
)


def table(growth: Growth) -> Table:
    """A row for each size."""
    made = Table(title="growth with what merely exists", title_justify="left")
    for heading in HEADINGS:
        made.add_column(heading, justify="right")
    empty = growth.readings[0]
    for reading in growth.readings:
        grown = (reading.memory - empty.memory) * 1024 / reading.nodes if reading.nodes else 0.0
        made.add_row(
            str(reading.nodes),
            str(reading.waiting),
            number(reading.start),
            number(reading.memory),
            number(grown),
            number(reading.idle),
            number(reading.latency),
            number(reading.cpu),
        )
    sharing = growth.sharing
    made.caption = (
        f"two launchers, {sharing.served} places that both want: "
        f"{sharing.conflicts} claims failed as the other was faster"
    )
    made.caption_justify = "left"
    return made


def plot(growth: Growth, path: Path) -> None:
    """Write the growth as a PNG."""
    # Not at the top: only this needs it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    readings = growth.readings
    sizes = [reading.nodes for reading in readings]
    shown = {
        "one more request, ms": [reading.latency for reading in readings],
        "its CPU, ms": [reading.cpu for reading in readings],
        "idle, % of a core": [reading.idle for reading in readings],
        "memory, MiB": [reading.memory for reading in readings],
        "start to first node, s": [reading.start for reading in readings],
    }
    for place, (title, values) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot(2, 3, place)
        axes.plot(sizes, values, marker="o")
        axes.set(title=title, xlabel="nodes in use", ylim=(0, max(values) * 1.2 or 1))
        axes.grid(visible=True, alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
