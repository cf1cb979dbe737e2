"""``tools/bench --recovery``: how soon the launcher works again after an outage.

The launcher reaches ZooKeeper and the API server through proxies that can be cut; the servers
themselves are restarted and frozen, too. Each time is taken from the end of the outage, when
ZooKeeper answers the requestor, until ``/ready`` is 200, and until a request that was written
at that moment is fulfilled. The requestor does not use the proxies.
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from cluster import LocalCluster, Progress
from harness import kubeconfig, yamlfile
from harness.proxy import Proxy
from harness.waiting import until
from harness.zookeeper import create_chroot
from rich.table import Table

from benchmark import launchers
from benchmark.errors import BenchmarkError
from benchmark.launchers import Launcher, Place, Recipe
from benchmark.requestor import Load

LABEL = "recovery"
PROXIED = "proxied"
"""The context that reaches the API server through a proxy."""
WANTED_S = 5.0
WITHIN_S = 120.0
POLL_S = 0.02
ROUNDS, QUICK_ROUNDS = 5, 1


@dataclass(frozen=True)
class Fault:
    """An outage: of what, how, and for how many seconds."""

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
    """Seconds from the end of an outage until ready and served, one of each per outage."""

    fault: Fault
    ready: list[float]
    served: list[float]


def measure(
    place: Place, local: LocalCluster, progress: Progress, *, quick: bool
) -> list[Recovery]:
    """Measure all of it, on a cluster that is up."""
    return asyncio.run(_measure(place, local, progress, QUICK_ROUNDS if quick else ROUNDS))


async def _measure(
    place: Place, local: LocalCluster, progress: Progress, rounds: int
) -> list[Recovery]:
    hosts = f"{place.zookeeper}/{LABEL}"
    await create_chroot(hosts)
    api_server = local.api_server_url.removeprefix("https://")
    async with Proxy.to(place.zookeeper) as zookeeper, Proxy.to(api_server) as api:
        recipe = _recipe(place, zookeeper.address, api.address)
        proxies = {"zookeeper": zookeeper, "kube-apiserver": api}
        launcher = recipe.start()
        try:
            bench = _Bench(local, proxies, launcher, recipe, hosts)
            return [await _read(bench, fault, progress, rounds) for fault in FAULTS]
        finally:
            await launcher.terminate()


def _recipe(place: Place, zookeeper: str, api: str) -> Recipe:
    """A launcher that reaches both servers through proxies."""
    document = yamlfile.load(Path(place.kubeconfig))
    path = place.folder / "kubeconfig-proxied"
    yamlfile.replace(path, kubeconfig.with_context(document, PROXIED, f"https://{api}"))
    proxied = dataclasses.replace(place, kubeconfig=str(path), context=PROXIED, zookeeper=zookeeper)
    pool = {"name": LABEL, "labels": [{"name": LABEL, "type": "namespace"}]}
    return launchers.own_with(proxied, LABEL, LABEL, pool, launchers.free_port())


@dataclass(frozen=True)
class _Bench:
    local: LocalCluster
    proxies: dict[str, Proxy]
    launcher: Launcher
    recipe: Recipe
    hosts: str

    async def ready(self) -> float:
        """Wait until the launcher is ready; when it was."""
        try:
            await until(self._is_ready, "the launcher to be ready", WITHIN_S, POLL_S)
        except TimeoutError as error:
            raise BenchmarkError(f"{error}\n{self.launcher.tail()}") from error
        return time.monotonic()

    async def _is_ready(self) -> bool:
        return await asyncio.to_thread(self._get_ready)

    def _get_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.recipe.web}/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    async def away(self, fault: Fault) -> None:
        """Cause an outage; it is over when this returns."""
        if fault.how == "cut":
            proxy = self.proxies[fault.service]
            await proxy.refuse()
            await asyncio.sleep(fault.seconds)
            proxy.restore()
            return
        take, give = {
            "freeze": (self.local.pause, self.local.resume),
            "restart": (self.local.stop, self.local.start),
        }[fault.how]
        await asyncio.to_thread(take, fault.service)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            await asyncio.to_thread(give, fault.service)


async def _read(bench: _Bench, fault: Fault, progress: Progress, rounds: int) -> Recovery:
    recovery = Recovery(fault, [], [])
    with progress.step(f"{fault.what}: away for {fault.seconds:g} s"):
        for _ in range(rounds):
            await bench.ready()
            async with Load.connected(bench.hosts) as load:
                await _serve_one(load)
            await bench.away(fault)
            # A server that has just started may report to be healthy before it answers.
            async with Load.connected(bench.hosts) as load:
                back = time.monotonic()
                ready, served = await asyncio.gather(bench.ready(), _serve_one(load))
            recovery.ready.append(ready - back)
            recovery.served.append(served - back)
    return recovery


async def _serve_one(load: Load) -> float:
    """Request a node now, and return it; when the request was fulfilled."""
    found = await load.launch(LABEL, 1, at_once=False, within=WITHIN_S)
    await load.release(WITHIN_S)
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
