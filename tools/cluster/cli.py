"""`tools/localcluster`: the commands. What they do is in local.py."""

import functools
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click

from . import environment, sources
from .errors import ClusterError
from .local import LocalCluster
from .progress import Progress

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / ".localcluster"

folder_option = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=".localcluster of this repository",
    help="The cluster's folder; each has one cluster.",
)


def telling_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Show our own errors as a message; others are bugs and keep their traceback."""

    @functools.wraps(command)
    def wrapped(*args: object, **kwargs: object) -> None:
        try:
            command(*args, **kwargs)
        except ClusterError as error:
            raise click.ClickException(str(error)) from error

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Keep one local cluster per folder: Kubernetes and ZooKeeper, on loopback."""
    # A terminated `up` cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@main.command()
@folder_option
@click.option(
    "--nodes",
    type=click.Choice(sources.KINDS),
    default=sources.AUTO,
    show_default=True,
    help="Fake nodes (kwok), a real one (containerd and kubelet), or real where possible.",
)
@telling_errors
def up(folder: Path, nodes: str) -> None:
    """Bring the cluster up, unless it is."""
    progress = Progress()
    cluster = LocalCluster(folder, nodes)
    cluster.up(progress)
    progress.say(f"API server {cluster.api_server_url}, ZooKeeper {cluster.zookeeper}")
    suffix = "" if folder == DEFAULT_FOLDER else f" --folder {shlex.quote(str(folder))}"
    progress.say(f'to use it: eval "$(tools/localcluster env{suffix})"')


@main.command()
@folder_option
@telling_errors
def down(folder: Path) -> None:
    """Take the cluster down and remove its folder."""
    LocalCluster(folder).down(Progress())


@main.command()
@folder_option
@telling_errors
def status(folder: Path) -> None:
    """Show each process; succeeds only if all are well."""
    cluster = LocalCluster(folder)
    for service, well in cluster.status():
        ports = ",".join(str(port) for port in service.ports.values())
        health = "healthy" if well else "NOT HEALTHY"
        click.echo(f"{service.name:24} pid {service.pid:<8} {ports:14} {health}")
    if not cluster.is_up:
        click.echo(f"no cluster is wholly up in {folder}")
        sys.exit(1)
    click.echo(
        f"up with {cluster.nodes} nodes: "
        f"API server {cluster.api_server_url}, ZooKeeper {cluster.zookeeper}"
    )


@main.command()
@folder_option
@telling_errors
def env(folder: Path) -> None:
    """Print the variables that make other programs use the cluster, for eval."""
    found = LocalCluster(folder).endpoints
    assignments = [
        f"{name}={shlex.quote(value)}" for name, value in environment.exports(found).items()
    ]
    click.echo(f"export {' '.join(assignments)}")
