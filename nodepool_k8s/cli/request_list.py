"""``nodepool-k8s request-list``: all node requests."""

from __future__ import annotations

import json
import time

from nodepool_k8s import presentation
from nodepool_k8s.cli.listing import listing
from nodepool_k8s.client import Viewer
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.redaction import redact_record
from nodepool_k8s.znodes.requests import encode_request


async def _rows(viewer: Viewer, _settings: Settings) -> list[presentation.Row]:
    now = time.time()
    return [
        {
            **presentation.request_row(request, now),
            **redact_record(json.loads(encode_request(request))),
        }
        for request in await viewer.requests()
    ]


command = listing(
    "request-list",
    "List node requests in the order of service, with the reasons of refusals.",
    _rows,
    presentation.REQUEST_COLUMNS,
    presentation.REQUEST_DETAIL_COLUMNS,
)
