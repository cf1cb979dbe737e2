"""A whole benchmark: clusters, runs and subjects in order, and what failed on the way.

In each run the floor and this launcher take every step in turn, so that drift of the
machine affects both. The peer comes after this launcher has ended, because even an idle peer
polls.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import peer
from cluster import ClusterError, LocalCluster, Progress

from benchmark import figures, launchers, recovery, runs
from benchmark import scale as growth
from benchmark.errors import BenchmarkError
from benchmark.figures import Readings
from benchmark.floor import IN_FLIGHT
from benchmark.launchers import Place, Recipe
from benchmark.measures import (
    FULL,
    QUICK,
    Cluster,
    FloorSubject,
    Found,
    LauncherSubject,
    Scale,
    Subject,
    steps_for,
)
from benchmark.recovery import Recovery
from benchmark.runs import Runs
from benchmark.scale import Growth

BUSY = 0.5
"""Load per core above which other work shows in the figures."""
WARM_UP = "warm-up"
REAL = "gone-real"
REAL_COUNT = 10
PEER_REAL_COUNT = 3
"""Nodepool takes most of a minute for each."""
PEER_SEQUENCE = 10
"""Nodepool's seconds hardly vary: ten nodes show as much as thirty."""


@dataclass(frozen=True)
class Plan:
    """What a benchmark is to do."""

    folder: Path
    names: list[str]
    runs: int = 3
    scale: Scale = FULL
    in_flight: int = IN_FLIGHT
    peer: bool = False
    real: bool = False
    profile: Path | None = None


@dataclass
class Campaign:
    """One benchmark: what it has measured so far, and what went wrong."""

    plan: Plan
    progress: Progress
    readings: Readings = field(default_factory=Readings)
    failures: list[str] = field(default_factory=list)
    environment: Path | None = None
    load: float = 0.0
    """The machine's load average over the minute before the benchmark began."""

    def run(self) -> None:
        """Run all of it. A subject that fails does not prevent the others from being measured."""
        self._look_at_the_machine()
        if self.plan.peer:
            with self._noting("the peer"):
                self.environment = peer.environment(self.progress)
        if steps_for(self.plan.names):
            with self._noting("the cluster"), self._place("fake") as place:
                self._all_runs(place)
        if self.plan.real and REAL in self.plan.names:
            with self._noting("the cluster with a real node"), self._place("real") as place:
                self._real(place)

    def _look_at_the_machine(self) -> None:
        self.load = os.getloadavg()[0]
        if self.load > BUSY * (os.cpu_count() or 1):
            self.progress.say(
                f"note: this machine is already busy (load {self.load:.1f}); "
                "even the ratios are of little use then"
            )

    # --- fake nodes --------------------------------------------------------------------

    def _all_runs(self, place: Place) -> None:
        with _cluster(place, self.plan.in_flight) as cluster:
            for run in range(1, self.plan.runs + 1):
                self._run(place, cluster, run)

    def _run(self, place: Place, cluster: Cluster, run: int) -> None:
        plan = self.plan
        recipe = launchers.own(place, run, plan.profile)
        with self._launcher(recipe, cluster, plan.scale) as own:
            floor = FloorSubject(cluster, plan.scale)
            self._steps(run, {figures.FLOOR: floor, figures.OWN: own})
        if self.environment is not None:
            recipe = launchers.peer(place, run, self.environment)
            sequence = min(PEER_SEQUENCE, plan.scale.sequence)
            scale = dataclasses.replace(plan.scale, sequence=sequence)
            with self._launcher(recipe, cluster, scale) as nodepool:
                self._steps(run, {figures.PEER: nodepool})

    def _steps(self, run: int, subjects: dict[str, Subject]) -> None:
        """Take every step with every subject; one that fails takes no further steps."""
        going = dict(subjects)
        for step in (WARM_UP, *steps_for(self.plan.names)):
            for name, subject in list(going.items()):
                if step != WARM_UP and step not in subject.steps:
                    continue
                take = subject.warm_up if step == WARM_UP else partial(subject.step, step)
                if not self._read(run, name, step, take):
                    del going[name]
                    with self._noting(f"giving up {name}"):
                        subject.give_up()

    def _read(self, run: int, name: str, step: str, take: Callable[[], Found]) -> bool:
        """Take a step and note what it shows; whether it succeeded."""
        title = f"run {run} of {self.plan.runs}, {step}, {name}"
        with self._noting(title):
            with self.progress.step(title):
                found = take()
            self.readings.add(run, name, found)
            return True
        return False

    # --- growth ------------------------------------------------------------------------

    def run_scale(self) -> Growth | None:
        """How costs grow with existing nodes and requests; None if that failed."""
        self._look_at_the_machine()
        with self._noting("growth"), self._place("fake") as place:
            return growth.measure(place, self.progress, quick=self.plan.scale is QUICK)
        return None

    # --- recovery ----------------------------------------------------------------------

    def run_recovery(self) -> list[Recovery] | None:
        """How soon the launcher works after outages; None if that failed."""
        self._look_at_the_machine()
        quick = self.plan.scale is QUICK
        with self._noting("recovery"), self._local("fake") as local:
            return recovery.measure(self._at(local), local, self.progress, quick=quick)
        return None

    # --- runs --------------------------------------------------------------------------

    def run_runs(self, count: int) -> Runs | None:
        """``nodepool-k8s run`` against kubectl; None if that failed."""
        self._look_at_the_machine()
        with (
            self._noting("runs"),
            self._place("real") as place,
            _cluster(place, self.plan.in_flight) as cluster,
        ):
            try:
                return runs.measure(place, self.progress, count)
            finally:
                cluster.empty(everything=True)
        return None

    # --- a real node -------------------------------------------------------------------

    def _real(self, place: Place) -> None:
        """Measured once: a kubelet takes the same seconds in each run."""
        recipes = {figures.OWN: (REAL_COUNT, launchers.own(place, 0, None))}
        if self.environment is not None:
            nodepool = launchers.peer(place, 0, self.environment)
            recipes[figures.PEER] = (PEER_REAL_COUNT, nodepool)
        with _cluster(place, self.plan.in_flight) as cluster:
            for name, (count, recipe) in recipes.items():
                with self._launcher(recipe, cluster, self.plan.scale) as subject:
                    self._real_one(name, count, subject)

    def _real_one(self, name: str, count: int, subject: LauncherSubject) -> None:
        title = f"{REAL}, {name}"
        with self._noting(title), self.progress.step(title):
            subject.await_launcher()
            self.readings.add(1, name, {REAL: subject.returned(count)})

    # --- places and processes ----------------------------------------------------------

    @contextmanager
    def _place(self, nodes: str) -> Iterator[Place]:
        with self._local(nodes) as local:
            yield self._at(local)

    @contextmanager
    def _local(self, nodes: str) -> Iterator[LocalCluster]:
        local = LocalCluster(self.plan.folder / f"cluster-{nodes}", nodes=nodes)
        local.up(self.progress)
        try:
            if local.nodes != nodes:
                self.progress.say(f"note: the nodes are {local.nodes} here, not {nodes}")
            yield local
        finally:
            local.down(self.progress)

    def _at(self, local: LocalCluster) -> Place:
        ca, cert, key = (str(path) for path in local.zookeeper_tls_files)
        folder = self.plan.folder / local.nodes
        folder.mkdir(parents=True, exist_ok=True)
        return Place(
            kubeconfig=str(local.kubeconfig),
            context=local.context,
            zookeeper=local.zookeeper,
            zookeeper_tls=local.zookeeper_tls,
            tls_files=(ca, cert, key),
            image=local.image,
            folder=folder,
        )

    @contextmanager
    def _launcher(
        self, recipe: Recipe, cluster: Cluster, scale: Scale
    ) -> Iterator[LauncherSubject]:
        """A launcher for the block; whatever it leaves behind is removed after it."""
        subject = LauncherSubject(recipe, cluster, scale)
        try:
            yield subject
        finally:
            subject.close()
            with self._noting(f"removing what {recipe.name} left behind"):
                cluster.empty(everything=True)

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BenchmarkError, TimeoutError, ClusterError, peer.PeerError) as error:
            self.failures.append(f"{what}: {error}")
            self.progress.say(f"not measured: {what}: {error}")


@contextmanager
def _cluster(place: Place, in_flight: int) -> Iterator[Cluster]:
    cluster = Cluster(place, in_flight)
    try:
        yield cluster
    finally:
        cluster.close()
