"""``tools/bench --scale``: nodes in use and waiting requests must cost next to nothing.

For more and more nodes in use and requests waiting at quota: a launcher's start-up, its memory,
its CPU while nothing happens, and the time and CPU for one more request. Then, with the
largest crowd, how often two launchers that share the waiting requests conflict.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster import Progress
from harness.waiting import until
from harness.zookeeper import create_chroot
from rich.table import Table

from benchmark import launchers
from benchmark.crowd import LABEL, POOL, Crowd
from benchmark.errors import BenchmarkError
from benchmark.figures import spans
from benchmark.launchers import Launcher, Place, Recipe
from benchmark.report import number
from benchmark.requestor import Load

SIZES = (100, 1000, 3000, 10000)
QUICK_SIZES = (100, 500)
WAITING_SHARE = 0.2
"""Requests that wait for each node in use."""
ONE_MORE = 30
"""Requests, one at a time, for a median."""
IDLE_S = 20.0
SETTLE_S = 5.0
WITHIN_S = 120.0
RETURNED = 50
"""Nodes that are returned while two launchers wait for their quota."""
MS = 1000.0
METRICS_S = 1.0

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
    """Requests that two launchers could serve, and claims that failed for that."""

    served: int
    conflicts: int


@dataclass
class Growth:
    """Everything that was measured."""

    readings: list[Reading]
    sharing: Sharing


def measure(place: Place, progress: Progress, *, quick: bool) -> Growth:
    """Measure all of it, on a cluster that is up."""
    return asyncio.run(_measure(place, progress, QUICK_SIZES if quick else SIZES))


async def _measure(place: Place, progress: Progress, sizes: tuple[int, ...]) -> Growth:
    readings = []
    sharing = Sharing(0, 0)
    for run, nodes in enumerate((0, *sizes)):
        title = f"{nodes} nodes in use, {int(nodes * WAITING_SHARE)} requests waiting"
        recipes = [_recipe(place, f"scale-{run}", each, nodes) for each in (1, 2)]
        await create_chroot(recipes[0].hosts)
        with progress.step(title):
            async with Crowd.connected(recipes[0].hosts) as crowd:
                await crowd.use_nodes(nodes)
                await crowd.wait(int(nodes * WAITING_SHARE))
                readings.append(await _read(recipes[0], nodes))
                if nodes == sizes[-1]:
                    sharing = await _share(recipes, crowd)
    return Growth(readings, sharing)


def _recipe(place: Place, chroot: str, which: int, nodes: int) -> Recipe:
    """A launcher with a full pool and one with room."""
    port = launchers.free_port()
    label = {"name": LABEL, "type": "namespace"}
    crowded = {"name": POOL, "max-servers": max(nodes, 1), "labels": [label]}
    return launchers.own_with(place, chroot, f"{chroot}-{which}", crowded, port)


async def _read(recipe: Recipe, nodes: int) -> Reading:
    async with Load.connected(recipe.hosts) as load:
        begun = time.monotonic()
        launcher = recipe.start()
        try:
            await load.launch("namespace", 1, at_once=False, within=WITHIN_S)
            start = time.monotonic() - begun
            # A fixed time: no event says that a process has become idle.
            await asyncio.sleep(SETTLE_S)
            memory, idle = launcher.memory(), await _idle(launcher)
            before = launcher.cpu()
            launched = await load.launch("namespace", ONE_MORE, at_once=False, within=WITHIN_S)
            cpu = (launcher.cpu() - before) / ONE_MORE
            await load.release(WITHIN_S)
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}\n{launcher.tail()}") from error
        finally:
            await launcher.terminate()
    orders = launched["orders"]
    latency = statistics.median(spans(orders, "submitted", "fulfilled"))
    waiting = int(nodes * WAITING_SHARE)
    return Reading(nodes, waiting, start, memory, idle, latency * MS, cpu * MS)


async def _idle(launcher: Launcher) -> float:
    before = launcher.cpu()
    await asyncio.sleep(IDLE_S)
    return (launcher.cpu() - before) / IDLE_S * 100


async def _share(recipes: list[Recipe], crowd: Crowd) -> Sharing:
    """Return nodes to a pool that two launchers serve; both claim each freed quota."""
    both = [recipe.start() for recipe in recipes]
    try:
        for recipe in recipes:
            await until(partial(_has_metrics, recipe), "a launcher's metrics", WITHIN_S)
        await asyncio.sleep(SETTLE_S)
        before = sum(_conflicts(recipe) or 0 for recipe in recipes)
        waiting = await crowd.waiting()
        await crowd.return_nodes(RETURNED)
        await until(
            partial(_is_served, crowd, waiting - RETURNED), "waiting requests served", WITHIN_S
        )
        after = sum(_conflicts(recipe) or 0 for recipe in recipes)
        return Sharing(RETURNED, int(after - before))
    finally:
        for launcher in both:
            await launcher.terminate()


def _conflicts(recipe: Recipe) -> float | None:
    """Claims of a launcher that failed as the other was faster; None before it has metrics."""
    try:
        with urllib.request.urlopen(f"{recipe.web}/metrics", timeout=METRICS_S) as answer:
            text = answer.read()
    except OSError:
        return None
    return sum(float(value) for value in CONFLICTS.findall(text))


def _has_metrics(recipe: Recipe) -> bool:
    return _conflicts(recipe) is not None


async def _is_served(crowd: Crowd, waiting: int) -> bool:
    return await crowd.waiting() <= waiting


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
    made = Table(title="growth with existing nodes and requests", title_justify="left")
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
        f"two launchers, {sharing.served} requests that both could serve: "
        f"{sharing.conflicts} claims failed as the other was faster"
    )
    made.caption_justify = "left"
    return made


def plot(growth: Growth, path: Path) -> None:
    """Write the growth as a PNG."""
    # Imported here: only this needs it.
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
