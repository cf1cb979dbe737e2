"""``nodepool-k8s hold ID``: hold a node."""

from __future__ import annotations

import click

from nodepool_k8s.admin import Admin
from nodepool_k8s.cli import common
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.model import Node


@click.command("hold")
@common.config_options
@click.option("--comment", "--reason", metavar="TEXT", help="The reason; listings show it.")
@click.option(
    "--expire-after",
    type=common.DURATION,
    metavar="DURATION",
    help="How long: seconds, or 90m, 12h, 7d.  [default: no limit]",
)
@common.node_argument
def command(
    path: str,
    secure_path: str | None,
    comment: str | None,
    expire_after: int | None,
    node_id: str,
) -> None:
    """Hold node ID until it is deleted by hand, or the hold expires.

    Exits 1 if there is no such node, or it is locked.
    """
    settings = common.load_settings(path, secure_path)
    common.run(_hold(settings, node_id, comment, expire_after))
    until = f"for {expire_after} s" if expire_after else "until it is deleted by hand"
    click.echo(f"node {node_id} is held {until}")
    if settings.max_hold_age is not None:
        click.echo(f"max-hold-age limits every hold to {settings.max_hold_age:g} s", err=True)


async def _hold(
    settings: Settings, node_id: str, comment: str | None, expire_after: int | None
) -> Node:
    async with Admin.connected(settings.zookeeper) as admin:
        return await admin.hold(node_id, comment=comment, expires=expire_after)
