"""``nodepool-k8s label-list``: the labels that can be requested."""

from __future__ import annotations

from nodepool_k8s import presentation
from nodepool_k8s.cli.listing import listing
from nodepool_k8s.client import Viewer
from nodepool_k8s.config.settings import Settings


async def _rows(viewer: Viewer, settings: Settings) -> list[presentation.Row]:
    return await viewer.labels(settings.labels)


command = listing(
    "label-list",
    "List the labels that registered pools serve, and the number of nodes of each.",
    _rows,
    presentation.LABEL_COLUMNS,
    {**presentation.LABEL_COLUMNS, "pools": "Pools"},
)
