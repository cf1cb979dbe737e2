"""``nodepool-k8s list``: the nodes there are."""

from __future__ import annotations

import json
from typing import Any

import click

from nodepool_k8s import wire
from nodepool_k8s.cli import common, tables
from nodepool_k8s.client import Requestor
from nodepool_k8s.config.settings import ZooKeeperSettings
from nodepool_k8s.model import Node

COLUMNS = {
    "id": "ID",
    "provider": "Provider",
    "pool": "Pool",
    "type": "Label",
    "external_id": "Namespace",
    "state": "State",
    "age": "Age",
    "locked": "Locked",
    "allocated_to": "Request",
    "reason": "Reason",
}


@click.command("list")
@common.config_options
@common.json_option
def command(path: str, secure_path: str | None, as_json: bool) -> None:
    """List nodes, with why a node is being deleted."""
    settings = common.zookeeper_settings(path, secure_path)
    tables.show(common.run(_rows(settings)), COLUMNS, as_json=as_json)


async def _rows(settings: ZooKeeperSettings) -> list[dict[str, Any]]:
    async with Requestor.connected(settings, common.identity()) as requestor:
        return [_row(node, locked) for node, locked in await requestor.nodes()]


def _row(node: Node, locked: bool) -> dict[str, Any]:
    record = common.redacted(json.loads(wire.encode_node(node)))
    return {
        **record,
        "id": node.id,
        "age": common.age(node.state_time),
        "locked": "locked" if locked else "unlocked",
        "reason": wire.own_data(node).get("reason"),
    }
