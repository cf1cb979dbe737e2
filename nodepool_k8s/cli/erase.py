"""``nodepool-k8s erase PROVIDER``: remove the records of a retired provider."""

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
    help="Do not ask, and erase even if a launcher serves the provider or nodes are locked.",
)
@common.provider_argument
def command(path: str, secure_path: str | None, force: bool, provider: str) -> None:
    """Remove the node records and quota ledgers of PROVIDER from ZooKeeper.

    For a provider that no launcher serves any more. Nothing in its cluster is deleted.
    Exits 1 if ZooKeeper has no records of it, a launcher serves it, or a node is locked.
    """
    zookeeper = common.load_settings(path, secure_path).zookeeper
    nodes, leftovers = common.run(_survey(zookeeper, provider, force=force))
    if not force:
        click.echo(f"Provider {provider} has {_count(nodes)} in ZooKeeper.")
        # Outside of the event loop, whose signal handler would catch Ctrl-C.
        click.confirm("Erase them? This cannot be undone.", abort=True)
    erased = common.run(_erase(zookeeper, provider, force=force))
    click.echo(f"erased {_count(erased)} of provider {provider}")
    if erased and leftovers:
        click.echo(f"Their objects in the cluster still exist: {leftovers}", err=True)


def _count(nodes: int) -> str:
    return "1 node record" if nodes == 1 else f"{nodes} node records"


async def _survey(
    settings: ZooKeeperSettings, provider: str, *, force: bool
) -> tuple[int, str | None]:
    """The number of nodes to erase, and a command that lists their objects in the cluster."""
    async with Admin.connected(settings) as admin:
        nodes = await admin.nodes(provider)
        if not nodes and not await admin.ledgers(provider):
            raise NodepoolK8sError(f"ZooKeeper has no records of provider {provider}")
        if not force:
            await admin.require_erasable(provider, nodes)
        try:
            deployment, _ = await admin.client.get(paths.DEPLOYMENT)
        except Vanished:
            return len(nodes), None
        labels = {
            DEPLOYMENT_LABEL: deployment.decode(),
            PROVIDER_LABEL: valid_label_value(provider),
        }
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return len(nodes), f"kubectl get namespaces -l {selector}"


async def _erase(settings: ZooKeeperSettings, provider: str, *, force: bool) -> int:
    async with Admin.connected(settings) as admin:
        with progress.show_progress(f"provider {provider}") as show:
            return await admin.erase(provider, force=force, on_progress=show)
