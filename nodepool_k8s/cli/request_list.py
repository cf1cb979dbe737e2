"""``nodepool-k8s request-list``: the node requests there are."""

from __future__ import annotations

import json
import time

from nodepool_k8s import status, wire
from nodepool_k8s.cli.listing import listing
from nodepool_k8s.client import Viewer
from nodepool_k8s.config.settings import Settings


async def _rows(viewer: Viewer, _settings: Settings) -> list[status.Row]:
    now = time.time()
    return [
        {
            **status.request_row(request, now),
            **status.redacted(json.loads(wire.encode_request(request))),
        }
        for request in await viewer.requests()
    ]


command = listing(
    "request-list",
    "List node requests in the order in which they are served, with why they failed.",
    _rows,
    status.REQUEST_COLUMNS,
    status.REQUEST_DETAIL_COLUMNS,
)
