"""Builds the commands ``list``, ``request-list``, ``label-list`` and ``component-list``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import click

from nodepool_k8s.cli import common, tables
from nodepool_k8s.client import Viewer, connection
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.presentation import Row

Read = Callable[[Viewer, Settings], Awaitable[list[Row]]]
"""Reads the rows from ZooKeeper."""


def listing(
    name: str,
    meaning: str,
    read: Read,
    columns: Mapping[str, str],
    detail: Mapping[str, str] | None = None,
) -> click.Command:
    """A command that prints rows; if ``detail`` is given, it has an option ``--detail``."""

    def show(path: str, secure_path: str | None, as_json: bool, detailed: bool = False) -> None:
        rows = common.run(_rows(common.load_settings(path, secure_path), read))
        chosen = detail if detailed and detail is not None else columns
        tables.show(rows, chosen, as_json=as_json)

    decorated = common.config_options(common.json_option(show))
    if detail is not None:
        help_ = "Show all columns."
        decorated = click.option("--detail", "detailed", is_flag=True, help=help_)(decorated)
    return click.command(name, help=meaning)(decorated)


async def _rows(settings: Settings, read: Read) -> list[Row]:
    async with connection(settings.zookeeper) as client:
        return await read(Viewer(client), settings)
