"""``nodepool-k8s delete ID``: mark a node for deletion, or delete it now."""

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
    "--now", is_flag=True, help="Delete it now, and wait until it is gone; needs the cluster."
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
    """Mark node ID for deletion by the launcher that serves its provider.

    Exits 1 if there is no such node, or it is locked.
    """
    if now:
        settings = common.load_settings(path, secure_path, clusters=True)
        common.run(_delete_now(settings, node_id, timeout))
        click.echo(f"node {node_id} is deleted")
        return
    node, served = common.run(_mark(common.load_settings(path, secure_path), node_id))
    click.echo(f"node {node_id} will be deleted")
    if not served:
        click.echo(
            f"No launcher serves provider {node.provider} now; the node is deleted when one "
            "does, or with --now.",
            err=True,
        )


async def _mark(settings: Settings, node_id: str) -> tuple[Node, bool]:
    async with Admin.connected(settings.zookeeper) as admin:
        node = await admin.mark_for_deletion(node_id, _reason())
        return node, bool(await admin.components(node.provider))


async def _delete_now(settings: Settings, node_id: str, timeout: float) -> None:
    # Imported here because only --now connects to a cluster.
    from nodepool_k8s.kubernetes.driver import KubernetesDriverFactory

    drivers = KubernetesDriverFactory()
    async with Admin.connected(settings.zookeeper) as admin:
        with progress.show_progress(f"node {node_id}") as show:
            await admin.delete_now(settings, drivers, node_id, _reason(), timeout, show)


def _reason() -> str:
    return f"{common.identity()} deleted it by hand"
