"""``nodepool-k8s component-list``: the pools that launchers have registered."""

from __future__ import annotations

from nodepool_k8s import presentation
from nodepool_k8s.cli.listing import listing
from nodepool_k8s.client import Viewer
from nodepool_k8s.config.settings import Settings


async def _rows(viewer: Viewer, _settings: Settings) -> list[presentation.Row]:
    components = await viewer.components()
    return [presentation.component_row(component, record) for component, record in components]


command = listing(
    "component-list",
    "List the pools that launchers have registered, those of Nodepool included.",
    _rows,
    presentation.COMPONENT_COLUMNS,
)
