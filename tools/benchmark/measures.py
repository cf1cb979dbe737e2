"""The measurements: which steps a run has, and what each subject does in them.

The floor and a launcher offer the same steps, so that one plan drives both in turn. Each
step leaves the cluster empty, so that none is slowed by the deletions of the one before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from harness.launcher import LauncherEnded

from benchmark.errors import BenchmarkError
from benchmark.figures import NAMES, rate, spans
from benchmark.launchers import LABELS, Place, Recipe
from benchmark.workers import Worker

Found = dict[str, float]

MS = 1000.0
WITHIN_S = 600.0
"""A command that takes longer has failed; the slowest known one takes a fifth of it."""
REGISTER_S = 60.0
SETTLE_S = 2.0
"""From a launcher's registration to the reading of its idle memory."""
WARM_UP = 20
"""Nodes of each label at once, after a quarter as many one at a time, before measuring."""

IDLE = "idle"
SPACED_S = 0.5
# Latencies: the label, and the seconds between one node and the next request.
PACE = {
    "namespace-latency": ("namespace", 0.0),
    "pod-latency": ("pod", 0.0),
    "pod-spaced": ("pod", SPACED_S),
}
BURST = {"namespace-burst": "namespace", "pod-burst": "pod"}
GONE = "gone"
STEPS = (IDLE, *PACE, *BURST, GONE)

# What a step shows beyond the quantity of its own name.
SHOWS = {
    IDLE: ("memory-idle",),
    "pod-burst": ("pod-burst", "cpu-launch", "cpu-total", "memory-loaded", "load-cpu"),
}


@dataclass(frozen=True)
class Scale:
    """How many nodes: in a burst, one at a time, and to be returned."""

    burst: int = 300
    sequence: int = 30
    returned: int = 10


FULL = Scale()
QUICK = Scale(burst=30, sequence=10, returned=5)


def steps_for(names: Iterable[str]) -> list[str]:
    """The steps that show these quantities."""
    chosen = set(names)
    if unknown := chosen - set(NAMES):
        raise BenchmarkError(f"no such quantity: {', '.join(sorted(unknown))}")
    return [step for step in STEPS if chosen & set(SHOWS.get(step, (step,)))]


class Subject(Protocol):
    """What is measured, and the steps that show something of it."""

    steps: tuple[str, ...]

    def warm_up(self) -> Found:
        """Warm it up; returns what can be measured only before that."""

    def step(self, name: str) -> Found:
        """Take one step and leave the cluster empty; what the step showed."""

    def give_up(self) -> None:
        """After a failure: leave the cluster empty for the others."""


class Cluster:
    """The floor's worker: creates the floor's nodes, and empties the cluster."""

    def __init__(self, place: Place, in_flight: int) -> None:
        self._worker = Worker(
            "benchmark.floor", place.kubeconfig, place.context, place.image, str(in_flight)
        )

    def make(self, label: str, count: int, **how: Any) -> Any:
        """Create nodes as the floor does; see ``floor.Floor.make``."""
        return self._worker.ask("make", timeout=WITHIN_S, kind=label, count=count, **how)

    def empty(self, remove: bool = False, everything: bool = False) -> None:
        """Wait until no benchmark's namespace exists; the floor's, or all, are removed first."""
        if remove or everything:
            self._worker.ask("clean", timeout=WITHIN_S, everything=everything)
        self._worker.ask("await_empty", timeout=WITHIN_S + SETTLE_S, within=WITHIN_S)

    def close(self) -> None:
        """End the worker."""
        self._worker.close()


class FloorSubject:
    """The floor, in a launcher's place."""

    steps = (*PACE, *BURST)

    def __init__(self, cluster: Cluster, scale: Scale) -> None:
        self._cluster = cluster
        self._scale = scale

    def warm_up(self) -> Found:
        """Open its connections, and make the API server do everything once."""
        for label in LABELS:
            self._cluster.make(label, WARM_UP // 4, at_once=False)
            self._cluster.make(label, WARM_UP, at_once=True)
        self._cluster.empty(remove=True)
        return {}

    def step(self, name: str) -> Found:
        """A latency or a burst."""
        found = {name: self._latency(name)} if name in PACE else self._burst(name)
        self._cluster.empty(remove=True)
        return found

    def give_up(self) -> None:
        """Remove every namespace of the benchmark."""
        self._cluster.empty(everything=True)

    def _latency(self, step: str) -> float:
        label, pause = PACE[step]
        made = self._cluster.make(label, self._scale.sequence, at_once=False, pause=pause)
        return float(statistics.median(made["durations"])) * MS

    def _burst(self, step: str) -> Found:
        label, count = BURST[step], self._scale.burst
        made = self._cluster.make(label, count, at_once=True)
        found = {step: count / made["elapsed"]}
        if label == "pod":
            found["cpu-launch"] = made["cpu"] / count * MS
        return found


class LauncherSubject:
    """A launcher, driven by a requestor."""

    steps = STEPS

    def __init__(self, recipe: Recipe, cluster: Cluster, scale: Scale) -> None:
        self._cluster = cluster
        self._scale = scale
        # The requestor creates the chroot, and so it comes first.
        self._requestor = Worker("benchmark.requestor", recipe.hosts)
        self._launcher = recipe.start()

    def close(self) -> None:
        """End the launcher, then the requestor."""
        self._launcher.end()
        self._requestor.close()

    def await_launcher(self) -> None:
        """Wait until its pool is registered."""
        self._ask("await_launcher", labels=list(LABELS), within=REGISTER_S)

    def warm_up(self) -> Found:
        """Wait for it to register, read its memory, and let it do everything once."""
        self.await_launcher()
        # A fixed time: no event says that a process has become idle.
        time.sleep(SETTLE_S)
        found = {"memory-idle": self._launcher.memory()}
        for label in LABELS:
            self._launch(label, WARM_UP // 4, at_once=False)
            self._launch(label, WARM_UP, at_once=True)
        self._ask("release", within=WITHIN_S)
        self._cluster.empty()
        return found

    def step(self, name: str) -> Found:
        """Take any of the steps."""
        found: Found = {}
        if name in PACE:
            found = {name: self._latency(name)}
        elif name in BURST:
            found = self._burst(name)
        elif name == GONE:
            found = {name: self.returned(self._scale.returned)}
        self._cluster.empty()
        return found

    def give_up(self) -> None:
        """End the launcher first, so that it creates no more nodes."""
        self._launcher.end()
        self._cluster.empty(everything=True)

    def returned(self, count: int) -> float:
        """Seconds from ``used`` to the removal of a pod node's record, p50."""
        orders = self._ask("cycle", label="pod", count=count, within=WITHIN_S)
        return statistics.median(spans(orders, "used", "gone"))

    def _latency(self, step: str) -> float:
        label, pause = PACE[step]
        orders = self._launch(label, self._scale.sequence, at_once=False, pause=pause)["orders"]
        self._ask("release", within=WITHIN_S)
        return statistics.median(spans(orders, "submitted", "fulfilled")) * MS

    def _burst(self, step: str) -> Found:
        label, count = BURST[step], self._scale.burst
        before = self._launcher.cpu()
        answer = self._launch(label, count, at_once=True)
        launched, memory = self._launcher.cpu(), self._launcher.memory()
        self._ask("release", within=WITHIN_S)
        found = {step: rate(answer["orders"])}
        if label == "pod":
            found["cpu-launch"] = (launched - before) / count * MS
            found["cpu-total"] = (self._launcher.cpu() - before) / count * MS
            found["memory-loaded"] = max(memory, self._launcher.memory())
            found["load-cpu"] = answer["cpu"] / count * MS
        return found

    def _launch(self, label: str, count: int, **how: Any) -> Any:
        return self._ask("launch", label=label, count=count, within=WITHIN_S, **how)

    def _ask(self, do: str, **given: Any) -> Any:
        timeout = WITHIN_S + SETTLE_S
        try:
            return self._requestor.ask(do, timeout=timeout, meanwhile=self._launcher.check, **given)
        except (BenchmarkError, LauncherEnded) as error:
            raise BenchmarkError(f"{error}\n{self._launcher.tail()}") from error
