"""``nodepool-k8s request-list``: the node requests there are."""

from __future__ import annotations

import json
from typing import Any

import click

from nodepool_k8s import wire
from nodepool_k8s.cli import common, tables
from nodepool_k8s.client import Requestor
from nodepool_k8s.config.settings import ZooKeeperSettings
from nodepool_k8s.model import NodeRequest

COLUMNS = {
    "id": "ID",
    "relative_priority": "Priority",
    "state": "State",
    "age": "Age",
    "requestor": "Requestor",
    "node_types": "Labels",
    "nodes": "Nodes",
    "declined_by": "Declined by",
    "reasons": "Reasons",
}


@click.command("request-list")
@common.config_options
@common.json_option
def command(path: str, secure_path: str | None, as_json: bool) -> None:
    """List node requests in the order in which they are served, with why they failed."""
    settings = common.zookeeper_settings(path, secure_path)
    tables.show(common.run(_rows(settings)), COLUMNS, as_json=as_json)


async def _rows(settings: ZooKeeperSettings) -> list[dict[str, Any]]:
    async with Requestor.connected(settings, common.identity()) as requestor:
        return [_row(request) for request in await requestor.requests()]


def _row(request: NodeRequest) -> dict[str, Any]:
    return {
        **json.loads(wire.encode_request(request)),
        "id": request.id,
        "age": common.age(request.created_time or request.state_time),
        "reasons": list(wire.refusal_reasons(request)),
    }
