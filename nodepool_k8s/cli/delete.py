"""``nodepool-k8s delete ID``: have a node deleted, or delete it now."""

from __future__ import annotations

import click

from nodepool_k8s.admin import Admin
from nodepool_k8s.cli import common, progress
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.model import Node

NOW_SECONDS = 300.0


@click.command("delete")
@common.config_options
@click.option(
    "--now", is_flag=True, help="Delete it from here, and wait until it is gone; needs the cluster."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=NOW_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long --now waits.",
)
@common.node_argument
def command(path: str, secure_path: str | None, now: bool, timeout: float, node_id: str) -> None:
    """Have node ID deleted by the launcher that serves its provider.

    Exits 1 where there is none, or somebody is using it.
    """
    if now:
        # With --now the contexts that the file names have to exist.
        common.run(_delete_now(common.settings(path, secure_path, clusters=True), node_id, timeout))
        click.echo(f"node {node_id} is deleted")
        return
    node, served = common.run(_mark(common.settings(path, secure_path), node_id))
    click.echo(f"node {node_id} will be deleted")
    if not served:
        click.echo(
            f"No launcher serves provider {node.provider} now: it is deleted when one does, "
            "or with --now.",
            err=True,
        )


async def _mark(settings: Settings, node_id: str) -> tuple[Node, bool]:
    async with Admin.connected(settings.zookeeper) as operator:
        node = await operator.mark_for_deletion(node_id, _reason())
        return node, bool(await operator.components(node.provider))


async def _delete_now(settings: Settings, node_id: str, timeout: float) -> None:
    # Only here: without --now, no command talks to a cluster.
    from nodepool_k8s.kubernetes.driver import KubernetesDriverFactory

    drivers = KubernetesDriverFactory()
    async with Admin.connected(settings.zookeeper) as operator:
        with progress.shown(f"node {node_id}") as say:
            await operator.delete_now(settings, drivers, node_id, _reason(), timeout, say)


def _reason() -> str:
    return f"{common.identity()} deleted it by hand"
