"""``nodepool-k8s info PROVIDER``: the pools, quota and nodes of a provider."""

from __future__ import annotations

import time
from collections.abc import Mapping

import click

from nodepool_k8s import presentation
from nodepool_k8s.cli import common, tables
from nodepool_k8s.cli.list import row
from nodepool_k8s.client import Viewer, connection
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.errors import NodepoolK8sError
from nodepool_k8s.model import whole_units

LEDGER_COLUMNS = {"pool": "Pool", "resource": "Resource", "used": "Used", "limit": "Limit"}


@click.command("info")
@common.config_options
@common.json_option
@common.provider_argument
def command(path: str, secure_path: str | None, as_json: bool, provider: str) -> None:
    """Show a provider's registered pools, its quota usage, and its nodes.

    Exits 1 if neither ZooKeeper nor the configuration has the provider.
    """
    settings = common.load_settings(path, secure_path)
    found = common.run(_info(settings, provider))
    if not any(found.values()) and settings.provider(provider) is None:
        raise NodepoolK8sError(f"neither ZooKeeper nor {path} has provider {provider}")
    if as_json:
        tables.print_json({"provider": provider, **found})
        return
    _section("Pools", found["pools"], presentation.COMPONENT_COLUMNS)
    _section("Quota", found["quota"], LEDGER_COLUMNS)
    _section("Nodes", found["nodes"], presentation.NODE_COLUMNS)


def _section(title: str, rows: list[presentation.Row], columns: Mapping[str, str]) -> None:
    click.echo(f"{title}:" if rows else f"{title}: none")
    if rows:
        tables.show(rows, columns, as_json=False)
    click.echo()


async def _info(settings: Settings, provider: str) -> dict[str, list[presentation.Row]]:
    now = time.time()
    async with connection(settings.zookeeper) as client:
        viewer = Viewer(client)
        components = await viewer.components(provider)
        return {
            "pools": [presentation.component_row(*entry) for entry in components],
            "quota": await _quota(viewer, settings, provider),
            "nodes": [row(node, locked, now) for node, locked in await viewer.nodes(provider)],
        }


async def _quota(viewer: Viewer, settings: Settings, provider: str) -> list[presentation.Row]:
    rows: list[presentation.Row] = []
    for name, claimed in (await viewer.ledgers(provider)).items():
        pool = settings.pool(provider, name)
        limits = pool.limits if pool else {}
        used = claimed.numbers()
        rows += [
            {
                "pool": name,
                "resource": resource,
                "used": used.get(resource, 0),
                "limit": whole_units(limits[resource]) if resource in limits else None,
            }
            for resource in sorted({*used, *limits})
        ]
    return rows
