"""``tools/bench --recovery``: how soon the launcher goes on when what was away is back.

The launcher reaches ZooKeeper and the API server over wires that can be cut; the servers
themselves are restarted and frozen, too. Each time is taken from the moment of the return,
when ZooKeeper answers the requestor, until ``/ready`` is 200, and until a request
that was written at that moment is fulfilled. The requestor's way is its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from cluster import LocalCluster, Progress
from faults.wire import Wire
from rich.table import Table

from benchmark import launchers
from benchmark.errors import BenchmarkError
from benchmark.launchers import Launcher, Place, Recipe
from benchmark.requestor import Requestor

LABEL = "recovery"
WANTED_S = 5.0
WITHIN_S = 120.0
POLL_S = 0.02
ROUNDS, QUICK_ROUNDS = 5, 1


@dataclass(frozen=True)
class Fault:
    """What is away, and for how many seconds."""

    what: str
    service: str
    seconds: float
    how: str
    """``cut``: the launcher's connections, refused until then; ``restart``; ``freeze``."""


FAULTS = (
    Fault("ZooKeeper's connection", "zookeeper", 3, "cut"),
    Fault("ZooKeeper, longer than the session", "zookeeper", 15, "cut"),
    Fault("ZooKeeper restarted", "zookeeper", 3, "restart"),
    Fault("the API server's connection", "kube-apiserver", 3, "cut"),
    Fault("the API server, longer", "kube-apiserver", 20, "cut"),
    Fault("the API server frozen", "kube-apiserver", 10, "freeze"),
    Fault("the API server restarted", "kube-apiserver", 3, "restart"),
)


@dataclass(frozen=True)
class Recovery:
    """Seconds from a return, one of each for each time that it was away."""

    fault: Fault
    ready: list[float]
    served: list[float]


class Wires:
    """The launcher's ways to both servers, in a thread of their own."""

    def __init__(self, targets: dict[str, str]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._wires = {name: self._do(Wire(target).start()) for name, target in targets.items()}

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WITHIN_S)

    def address(self, name: str) -> str:
        """``HOST:PORT`` of the launcher's way to that server."""
        address: str = self._wires[name].address
        return address

    def cut(self, name: str) -> None:
        """Drop what is connected, and refuse what wants to be."""
        self._wires[name].refusing = True
        self._do(self._wires[name].cut())

    def restore(self, name: str) -> None:
        """Let connections through again."""
        self._wires[name].refusing = False

    def close(self) -> None:
        """End the thread."""
        for wire in self._wires.values():
            self._do(wire.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def measure(
    place: Place, local: LocalCluster, progress: Progress, *, quick: bool
) -> list[Recovery]:
    """Read all of it, on a cluster that is up."""
    url = str(_cluster_of(place.kubeconfig, place.context)["server"])
    targets = {"zookeeper": place.zookeeper, "kube-apiserver": url.removeprefix("https://")}
    wires = Wires(targets)
    try:
        with _launcher(place, wires) as (launcher, recipe):
            bench = _Bench(local, wires, launcher, recipe, f"{place.zookeeper}/{LABEL}")
            return [_read(bench, fault, progress, quick=quick) for fault in FAULTS]
    finally:
        wires.close()


@contextmanager
def _launcher(place: Place, wires: Wires) -> Iterator[tuple[Launcher, Recipe]]:
    path = place.folder / "kubeconfig-wired"
    document = yaml.safe_load(Path(place.kubeconfig).read_text(encoding="utf-8"))
    for entry in document["clusters"]:
        entry["cluster"]["server"] = f"https://{wires.address('kube-apiserver')}"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    Requestor(f"{place.zookeeper}/{LABEL}").close()  # It makes the chroot.
    wired = dataclasses.replace(place, kubeconfig=str(path), zookeeper=wires.address("zookeeper"))
    pool = {"name": LABEL, "labels": [{"name": LABEL, "type": "namespace"}]}
    recipe = launchers.own_with(wired, LABEL, LABEL, pool, launchers.free_port())
    launcher = recipe.start()
    try:
        yield launcher, recipe
    finally:
        launcher.stop()


def _cluster_of(kubeconfig: str, context: str) -> dict[str, Any]:
    document = yaml.safe_load(Path(kubeconfig).read_text(encoding="utf-8"))
    contexts = {entry["name"]: entry["context"] for entry in document["contexts"]}
    clusters = {entry["name"]: entry["cluster"] for entry in document["clusters"]}
    found: dict[str, Any] = clusters[contexts[context]["cluster"]]
    return found


@dataclass(frozen=True)
class _Bench:
    local: LocalCluster
    wires: Wires
    launcher: Launcher
    recipe: Recipe
    hosts: str

    def ready(self) -> bool:
        """Whether the launcher says that it can work."""
        try:
            with urllib.request.urlopen(f"{self.recipe.web}/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False

    def until(self, check: Callable[[], bool], what: str) -> float:
        """When that was so, by the monotonic clock."""
        deadline = time.monotonic() + WITHIN_S
        while not check():
            if time.monotonic() > deadline:
                raise BenchmarkError(f"waited in vain for {what}\n{self.launcher.tail()}")
            time.sleep(POLL_S)
        return time.monotonic()

    def away(self, fault: Fault) -> None:
        """Take something away for the fault's time; it is back when this returns."""
        take, give = {
            "cut": (self.wires.cut, self.wires.restore),
            "freeze": (self.local.pause, self.local.resume),
            "restart": (self.local.stop, self.local.start),
        }[fault.how]
        take(fault.service)
        try:
            time.sleep(fault.seconds)
        finally:
            give(fault.service)


def _read(bench: _Bench, fault: Fault, progress: Progress, *, quick: bool) -> Recovery:
    recovery = Recovery(fault, [], [])
    with progress.step(f"{fault.what}: away for {fault.seconds:g} s"):
        for _ in range(QUICK_ROUNDS if quick else ROUNDS):
            bench.until(bench.ready, "the launcher to be ready")
            _serve_one(Requestor(bench.hosts))
            bench.away(fault)
            # Well, says a server that has just started, before it has served anybody.
            requestor = Requestor(bench.hosts)
            back = time.monotonic()
            served: list[float] = []
            failed: list[BaseException] = []
            asking = threading.Thread(target=partial(_note, served, failed, requestor))
            asking.start()
            recovery.ready.append(bench.until(bench.ready, "the launcher to be ready") - back)
            asking.join()
            if failed:
                raise failed[0]
            recovery.served.append(served[0] - back)
    return recovery


def _note(served: list[float], failed: list[BaseException], requestor: Requestor) -> None:
    try:
        served.append(_serve_one(requestor))
    except Exception as error:
        failed.append(error)


def _serve_one(requestor: Requestor) -> float:
    """Ask for a node now, and give it back; when it was there."""
    try:
        found = requestor.launch(LABEL, 1, at_once=False, within=WITHIN_S)
        requestor.release(WITHIN_S)
    finally:
        requestor.close()
    return float(found["orders"][0]["fulfilled"])


def table(recoveries: list[Recovery]) -> Table:
    """A row for each kind of fault; median and longest."""
    made = Table(
        title=f"seconds after the return (wanted: {WANTED_S:g} at most)", title_justify="left"
    )
    made.add_column("what was away")
    made.add_column("for, s", justify="right")
    made.add_column("times", justify="right")
    made.add_column("until ready, median / longest", justify="right")
    made.add_column("until served, median / longest", justify="right")
    for each in recoveries:
        made.add_row(
            each.fault.what,
            f"{each.fault.seconds:g}",
            str(len(each.ready)),
            *(
                f"{statistics.median(spans):.2f} / {max(spans):.2f}"
                for spans in (each.ready, each.served)
            ),
        )
    return made
