"""A whole benchmark: clusters, runs and subjects in order, and what failed on the way.

In each run the floor and this launcher take every step in turn, so that what drifts on the
machine meets both. The peer comes after this launcher has ended, because even an idle one
polls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cluster import ClusterError, LocalCluster, Progress

from benchmark import figures, peer
from benchmark.errors import BenchmarkError
from benchmark.figures import Readings
from benchmark.launchers import Launcher, Place, start_own, start_peer
from benchmark.measures import (
    FULL,
    Cluster,
    FloorSubject,
    LauncherSubject,
    Scale,
    Subject,
    steps_for,
)

REAL = "gone-real"
REAL_COUNT = 10
PEER_REAL_COUNT = 3
"""Nodepool needs most of a minute for each."""
PEER_SEQUENCE = 10
"""Nodepool's seconds hardly vary: ten of them tell as much as thirty."""


@dataclass(frozen=True)
class Plan:
    """What a benchmark is to do."""

    folder: Path
    names: list[str]
    runs: int = 3
    scale: Scale = FULL
    peer: bool = False
    real: bool = False
    profile: Path | None = None


@dataclass
class Campaign:
    """The benchmark under way: what it has read so far, and what went wrong."""

    plan: Plan
    progress: Progress
    readings: Readings = field(default_factory=Readings)
    failures: list[str] = field(default_factory=list)
    environment: Path | None = None

    def run(self) -> None:
        """All of it. A subject that fails does not keep the others from being measured."""
        if self.plan.peer:
            with self._noting("the peer"):
                self.environment = peer.environment(self.progress)
        if steps_for(self.plan.names):
            with self._noting("the cluster"), self._place("fake") as place:
                self._all_runs(place)
        if self.plan.real and REAL in self.plan.names:
            with self._noting("the cluster with a real node"), self._place("real") as place:
                self._real(place)

    # --- fake nodes --------------------------------------------------------------------

    def _all_runs(self, place: Place) -> None:
        with _cluster(place) as cluster:
            for run in range(1, self.plan.runs + 1):
                self._run(place, cluster, run)

    def _run(self, place: Place, cluster: Cluster, run: int) -> None:
        floor = FloorSubject(cluster, self.plan.scale)
        with self._launcher(
            figures.OWN, lambda: start_own(place, run, self.plan.profile), cluster, self.plan.scale
        ) as own:
            self._steps(run, {figures.FLOOR: floor, figures.OWN: own})
        if self.environment is not None:
            environment = self.environment
            scale = Scale(
                self.plan.scale.burst,
                min(PEER_SEQUENCE, self.plan.scale.sequence),
                self.plan.scale.returned,
            )
            with self._launcher(
                figures.PEER, lambda: start_peer(place, run, environment), cluster, scale
            ) as nodepool:
                self._steps(run, {figures.PEER: nodepool})

    def _steps(self, run: int, subjects: dict[str, Subject]) -> None:
        """Every step with every subject; one that fails is left out of those that follow."""
        going = dict(subjects)
        for step in ("warm-up", *steps_for(self.plan.names)):
            for name in list(going):
                title = f"run {run} of {self.plan.runs}, {step}, {name}"
                with self._noting(title, lambda name=name: going.pop(name)):  # type: ignore[misc]
                    with self.progress.step(title):
                        found = (
                            going[name].warm_up() if step == "warm-up" else going[name].step(step)
                        )
                    self.readings.add(run, name, found)

    # --- a real node -------------------------------------------------------------------

    def _real(self, place: Place) -> None:
        """Once: the seconds that a kubelet takes are the same in each run."""
        starts: dict[str, tuple[int, Callable[[], Launcher]]] = {
            figures.OWN: (REAL_COUNT, lambda: start_own(place, 0, None))
        }
        if self.environment is not None:
            environment = self.environment
            starts[figures.PEER] = (PEER_REAL_COUNT, lambda: start_peer(place, 0, environment))
        with _cluster(place) as cluster:
            for name, (count, start) in starts.items():
                with self._launcher(name, start, cluster, self.plan.scale) as subject:
                    self._real_one(name, count, subject)

    def _real_one(self, name: str, count: int, subject: LauncherSubject) -> None:
        title = f"{REAL}, {name}"
        with self._noting(title), self.progress.step(title):
            subject.await_launcher()
            self.readings.add(1, name, {REAL: subject.returned(count)})

    # --- places and processes ----------------------------------------------------------

    @contextmanager
    def _place(self, nodes: str) -> Iterator[Place]:
        local = LocalCluster(self.plan.folder / f"cluster-{nodes}", nodes=nodes)
        local.up(self.progress)
        try:
            if local.nodes != nodes:
                self.progress.say(f"mind: the nodes are {local.nodes} here, not {nodes}")
            ca, cert, key = (str(path) for path in local.zookeeper_tls_files)
            folder = self.plan.folder / nodes
            folder.mkdir(parents=True, exist_ok=True)
            yield Place(
                kubeconfig=str(local.kubeconfig),
                context=local.context,
                zookeeper=local.zookeeper,
                zookeeper_tls=local.zookeeper_tls,
                tls_files=(ca, cert, key),
                image=local.image,
                folder=folder,
            )
        finally:
            local.down(self.progress)

    @contextmanager
    def _launcher(
        self, name: str, start: Callable[[], Launcher], cluster: Cluster, scale: Scale
    ) -> Iterator[LauncherSubject]:
        """A launcher for the block; whatever it leaves behind is removed after it."""
        subject = LauncherSubject(start(), cluster, scale)
        try:
            yield subject
        finally:
            subject.close()
            with self._noting(f"removing what {name} left behind"):
                cluster.empty(everything=True)

    @contextmanager
    def _noting(self, what: str, also: Callable[[], object] | None = None) -> Iterator[None]:
        try:
            yield
        except (BenchmarkError, ClusterError) as error:
            self.failures.append(f"{what}: {error}")
            self.progress.say(f"not measured: {what}: {error}")
            if also is not None:
                also()


@contextmanager
def _cluster(place: Place) -> Iterator[Cluster]:
    cluster = Cluster(place)
    try:
        yield cluster
    finally:
        cluster.close()
