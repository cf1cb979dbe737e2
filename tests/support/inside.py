"""What a node's pod is like inside, seen through the node's record alone."""

from __future__ import annotations

from collections.abc import Sequence

from harness.zookeeper import Record

from nodepool_k8s.kubernetes import exec
from nodepool_k8s.kubernetes.exec import NodeApi


async def run_inside(connection: Record, pod: str, command: Sequence[str]) -> tuple[int, str]:
    """A command's exit status, and what it writes; ``connection`` is ``connection_port``."""
    api, written = NodeApi(connection), bytearray()

    async def keep(data: bytes) -> None:
        written.extend(data)

    try:
        namespace = connection["namespace"]
        status = await exec.execute(api, namespace, pod, command, stdout=keep, stderr=keep)
    finally:
        await api.close()
    return status, written.decode()
