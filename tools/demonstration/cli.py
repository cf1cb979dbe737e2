"""`tools/demo`: the frame around the story, which cleans up however the story ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import click
from cluster import ClusterError, LocalCluster, Progress
from harness import kubeconfig, yamlfile
from harness.api import ApiError
from harness.launcher import LauncherEnded, tail

from demonstration.errors import DemoError
from demonstration.screen import Screen
from demonstration.story import Scene, tell
from nodepool_k8s import config
from nodepool_k8s.errors import NodepoolK8sError, describe

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "etc" / "nodepool.yaml"
CONTEXT = "local"
"""What the configuration calls the cluster's context."""
INTERRUPTED = 130
EXPECTED = (
    DemoError,
    ClusterError,
    LauncherEnded,
    ApiError,
    NodepoolK8sError,
    OSError,
    aiohttp.ClientError,
)
"""Errors whose message is enough; any other is a bug and keeps its traceback."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--nodes",
    type=click.Choice(["auto", "real", "fake"]),
    default="auto",
    show_default=True,
    help="What the cluster's node is: real where the machine allows it, or one of the two.",
)
def main(nodes: str) -> None:
    """Show the launcher at work: two node requests, from submission to removal.

    A local cluster is brought up for it, and taken down again. Exits 0 only if everything
    happened that the demo shows.
    """
    # SIGTERM is handled like SIGINT, which asyncio turns into an orderly end. A script's
    # background job starts with SIGINT ignored, and Python would leave it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sys.exit(demonstrate(Screen(), nodes))


def demonstrate(screen: Screen, nodes: str) -> int:
    """Run the demo and print the result; the exit status."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nodepool-k8s-demo-") as folder:
        try:
            _play(screen, Path(folder), nodes)
        except KeyboardInterrupt:
            screen.bad("\ninterrupted; everything was taken down")
            return INTERRUPTED
        except Exception as error:
            # For any error: the launcher's log explains it, and is removed with the folder.
            _report(screen, Path(folder), error)
            if not isinstance(error, EXPECTED):
                raise
            return 1
    screen.good(f"\nDone in {time.monotonic() - began:.1f} s. Nothing is left behind.")
    return 0


def _play(screen: Screen, folder: Path, nodes: str) -> None:
    progress = Progress(screen.console)
    screen.chapter("A cluster")
    cluster = LocalCluster(folder / "cluster", nodes)
    with _taken_down(cluster, screen, progress):
        cluster.up(progress)
        screen.line(f"API server {cluster.api_server_url}, ZooKeeper {cluster.zookeeper}")
        asyncio.run(tell(_scene(screen, progress, cluster, folder)))
    if (folder / "cluster").exists():
        raise DemoError(f"{folder / 'cluster'} is still there")


@contextmanager
def _taken_down(cluster: LocalCluster, screen: Screen, progress: Progress) -> Iterator[None]:
    try:
        yield
    finally:
        # A second Ctrl-C would leave half of it behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            screen.chapter("Taking everything down")
            cluster.down(progress)
        finally:
            signal.signal(signal.SIGINT, before)


def _scene(screen: Screen, progress: Progress, cluster: LocalCluster, folder: Path) -> Scene:
    # A cluster from Docker, or one that the environment names, has another name for its context.
    kube_config = folder / "kubeconfig"
    document = yamlfile.load(cluster.kubeconfig)
    yamlfile.replace(kube_config, kubeconfig.with_context(document, CONTEXT))
    host, _, port = cluster.zookeeper.split(",")[0].rpartition(":")
    environ = {
        **os.environ,
        "KUBECONFIG": str(kube_config),
        "NODEPOOL_ZOOKEEPER_HOST": host,
        "NODEPOOL_ZOOKEEPER_PORT": port,
    }
    return Scene(
        screen=screen,
        progress=progress,
        config=CONFIG,
        settings=config.load(str(CONFIG), environ=environ),
        environ=environ,
        kubeconfig=kube_config,
        real_node=cluster.nodes == "real",
        log=_log(folder),
    )


def _report(screen: Screen, folder: Path, error: Exception) -> None:
    log = _log(folder)
    if log.exists():
        screen.line("\nthe end of the launcher's log:")
        screen.quoted(tail(log))
    screen.bad(f"\nFAILED: {describe(error)}")


def _log(folder: Path) -> Path:
    return folder / "launcher.log"
