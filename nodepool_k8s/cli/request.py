"""``nodepool-k8s request LABEL...``: request nodes by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.status import Status

from nodepool_k8s.cli import common, tables
from nodepool_k8s.client import HeldNode, Requestor
from nodepool_k8s.errors import NodepoolK8sError, Vanished
from nodepool_k8s.model import NodeRequest, RequestState
from nodepool_k8s.redaction import redact_record
from nodepool_k8s.znodes.nodes import encode_node
from nodepool_k8s.zookeeper_settings import ZooKeeperSettings


@click.command("request")
@common.config_options
@click.option("--wait/--no-wait", default=True, help="Wait for the nodes and keep them locked.")
@common.json_option
@click.option("--provider", type=common.NAME, help="The preferred provider.")
@click.argument("labels", metavar="LABEL...", type=common.NAME, nargs=-1, required=True)
def command(
    path: str,
    secure_path: str | None,
    wait: bool,
    as_json: bool,
    provider: str | None,
    labels: tuple[str, ...],
) -> None:
    """Request one node of each LABEL.

    With --wait (the default) the nodes stay locked until Ctrl-C, and are then returned; an
    unfinished request is cancelled. With --no-wait the request's id is printed, and any
    requestor may accept the nodes.
    """
    zookeeper = common.load_settings(path, secure_path).zookeeper
    common.run(_request(zookeeper, labels, provider, wait=wait, as_json=as_json))


async def _request(
    settings: ZooKeeperSettings,
    labels: Sequence[str],
    provider: str | None,
    *,
    wait: bool,
    as_json: bool,
) -> None:
    async with Requestor.connected(settings, common.identity()) as requestor:
        request_id = await requestor.submit(labels, provider=provider, ephemeral=wait)
        if not wait:
            click.echo(json.dumps({"id": request_id}) if as_json else request_id)
            return
        try:
            request = await _wait(requestor, request_id)
        except BaseException:
            await asyncio.shield(requestor.cancel(request_id))
            raise
        async with requestor.using(request) as nodes:
            _show(nodes, as_json=as_json)
            await asyncio.Event().wait()


async def _wait(requestor: Requestor, request_id: str) -> NodeRequest:
    console = Console(stderr=True)
    with console.status(f"request {request_id}") as status:
        shown = _Progress(console, status)
        try:
            return await requestor.wait(request_id, shown)
        except Vanished as error:
            raise NodepoolK8sError(f"request {request_id} was deleted") from error


class _Progress:
    """Shows a request's state: in place on a terminal, otherwise one line per change."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status
        self._last: RequestState | None = None

    def __call__(self, request: NodeRequest) -> None:
        if request.state is self._last:
            return
        self._last = request.state
        text = f"request {request.id}: {_STATUS[request.state]}"
        self._status.update(text)
        if not self._console.is_terminal:
            self._console.print(text, soft_wrap=True)


_STATUS = {
    RequestState.REQUESTED: "waiting for a launcher with free quota",
    RequestState.PENDING: "a launcher is creating its nodes",
    RequestState.FULFILLED: "fulfilled",
    RequestState.FAILED: "failed",
}

_COLUMNS = {
    "id": "ID",
    "type": "Label",
    "external_id": "Namespace",
    "interface_ip": "Pod",
    "provider": "Provider",
}


def _show(nodes: Sequence[HeldNode], *, as_json: bool) -> None:
    rows = [_row(entry) for entry in nodes]
    tables.show(rows, _COLUMNS, as_json=as_json)
    Console(stderr=True).print("In use; Ctrl-C returns them.", soft_wrap=True)


def _row(entry: HeldNode) -> dict[str, Any]:
    record = redact_record(json.loads(encode_node(entry.node)))
    return {**record, "id": entry.node.id}
