"""``nodepool-k8s erase PROVIDER``: remove the records of a provider that is no more."""

from __future__ import annotations

import click

from nodepool_k8s.admin import Admin
from nodepool_k8s.cli import common, progress
from nodepool_k8s.config.settings import ZooKeeperSettings
from nodepool_k8s.errors import NodepoolK8sError, Vanished
from nodepool_k8s.manifests import DEPLOYMENT_LABEL, PROVIDER_LABEL
from nodepool_k8s.names import valid_label_value
from nodepool_k8s.znodes import paths


@click.command("erase")
@common.config_options
@click.option(
    "--force",
    is_flag=True,
    help="Do not ask, and erase even what a launcher serves or somebody has locked.",
)
@common.provider_argument
def command(path: str, secure_path: str | None, force: bool, provider: str) -> None:
    """Remove the node records of PROVIDER from ZooKeeper, and its quota ledgers.

    For a provider that no launcher serves any more. Nothing is deleted in its cluster.
    Exits 1 where there is nothing of it, a launcher serves it, or a node is locked.
    """
    zookeeper = common.settings(path, secure_path).zookeeper
    nodes, leftovers = common.run(_survey(zookeeper, provider, force=force))
    if not force:
        click.echo(f"Provider {provider} has {_count(nodes)} in ZooKeeper.")
        # Outside of the event loop, which would keep Ctrl-C to itself.
        click.confirm("Erase them? This cannot be undone.", abort=True)
    erased = common.run(_erase(zookeeper, provider, force=force))
    click.echo(f"erased {_count(erased)} of provider {provider}")
    if erased and leftovers:
        click.echo(f"What they had in the cluster is still there: {leftovers}", err=True)


def _count(nodes: int) -> str:
    return "1 node record" if nodes == 1 else f"{nodes} node records"


async def _survey(
    settings: ZooKeeperSettings, provider: str, *, force: bool
) -> tuple[int, str | None]:
    """How many nodes there are to erase, and how to find what they leave in a cluster."""
    async with Admin.connected(settings) as operator:
        nodes = await operator.nodes(provider)
        if not nodes and not await operator.ledgers(provider):
            raise NodepoolK8sError(f"there is nothing of provider {provider} in ZooKeeper")
        if not force:
            await operator.require_erasable(provider, nodes)
        try:
            deployment, _ = await operator.client.get(paths.DEPLOYMENT)
        except Vanished:
            return len(nodes), None
        labels = {
            DEPLOYMENT_LABEL: deployment.decode(),
            PROVIDER_LABEL: valid_label_value(provider),
        }
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return len(nodes), f"kubectl get namespaces -l {selector}"


async def _erase(settings: ZooKeeperSettings, provider: str, *, force: bool) -> int:
    async with Admin.connected(settings) as operator:
        with progress.shown(f"provider {provider}") as say:
            return await operator.erase(provider, force=force, say=say)
