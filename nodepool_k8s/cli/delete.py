"""``nodepool-k8s delete ID``: have the launcher delete a node."""

from __future__ import annotations

import click

from nodepool_k8s.cli import common
from nodepool_k8s.client import Requestor
from nodepool_k8s.config.settings import ZooKeeperSettings
from nodepool_k8s.errors import Held, NodepoolK8sError, Vanished


@click.command("delete")
@common.config_options
@click.argument("node_id", metavar="ID")
def command(path: str, secure_path: str | None, node_id: str) -> None:
    """Have node ID deleted; exits 1 where there is none, or somebody uses it."""
    common.run(_delete(common.zookeeper_settings(path, secure_path), node_id))
    click.echo(f"node {node_id} will be deleted")


async def _delete(settings: ZooKeeperSettings, node_id: str) -> None:
    async with Requestor.connected(settings, common.identity()) as requestor:
        try:
            await requestor.mark_for_deletion(node_id)
        except Vanished as error:
            raise NodepoolK8sError(f"there is no node {node_id}; see nodepool-k8s list") from error
        except Held as error:
            raise NodepoolK8sError(f"node {node_id} is locked: somebody uses it") from error
