"""``nodepool-k8s list``: all nodes."""

from __future__ import annotations

import json
import time

from nodepool_k8s import presentation
from nodepool_k8s.cli.listing import listing
from nodepool_k8s.client import Viewer
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.model import Node
from nodepool_k8s.redaction import redact_record
from nodepool_k8s.znodes.nodes import encode_node


async def _rows(viewer: Viewer, _settings: Settings) -> list[presentation.Row]:
    now = time.time()
    return [row(node, locked, now) for node, locked in await viewer.nodes()]


def row(node: Node, locked: bool, now: float) -> presentation.Row:
    """A node's row, with every key of its record added under the record's own name."""
    record = redact_record(json.loads(encode_node(node)))
    return {**presentation.node_row(node, locked, now), **record}


command = listing(
    "list",
    "List nodes, with the reason why a node is being deleted.",
    _rows,
    presentation.NODE_COLUMNS,
    presentation.NODE_DETAIL_COLUMNS,
)
