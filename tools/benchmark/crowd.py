"""Node records in use and requests that wait, written straight to ZooKeeper.

The records look as the launcher writes them, and their locks are held, as a requestor does
that uses its nodes. There are no namespaces behind them: an idle launcher asks for none.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from harness.requestor import NODES, REQUESTS, Requestor, request_prefix, zuul_request
from harness.zookeeper import Record, Znode

LABEL = "crowded"
POOL = "bench-crowded"
PROVIDER = "bench"
TOKEN = "t" * 1000
AUTHORITY = "c" * 1500
"""As long as a real access token and a real certificate are."""


class Crowd:
    """Nodes and requests that exist while something else is measured."""

    def __init__(self, requestor: Requestor) -> None:
        self._requestor = requestor
        self._nodes: list[str] = []
        """Paths of the nodes in use."""

    @classmethod
    @asynccontextmanager
    async def connected(cls, hosts: str) -> AsyncIterator[Crowd]:
        """Connect for the length of the block; then every lock is released."""
        async with Requestor.connected(hosts) as requestor:
            yield cls(requestor)

    async def use_nodes(self, count: int) -> None:
        """Create so many nodes in use."""
        paths = await self._requestor.create_many(
            Znode(f"{NODES}/", _node(), sequence=True) for _ in range(count)
        )
        child = f"lock/{uuid.uuid4().hex}__lock__0000000000"
        await self._requestor.create_many(Znode(f"{path}/lock") for path in paths)
        await self._requestor.create_many(
            Znode(f"{path}/{child}", ephemeral=True) for path in paths
        )
        self._nodes += paths

    async def wait(self, count: int) -> None:
        """Create so many requests that wait for the crowded pool."""
        await self._requestor.create_many(
            Znode(request_prefix(), zuul_request([LABEL], "bench"), sequence=True)
            for _ in range(count)
        )

    async def return_nodes(self, count: int) -> None:
        """Mark so many nodes as used, and release their locks."""
        going, self._nodes = self._nodes[:count], self._nodes[count:]
        for path in going:
            await self._requestor.set_node(path.rpartition("/")[2], state="used")
            for child in await self._requestor.children(f"{path}/lock"):
                await self._requestor.delete(f"{path}/lock/{child}")

    async def waiting(self) -> int:
        """How many requests no launcher has accepted yet."""
        names = await self._requestor.children(REQUESTS)
        records = await self._requestor.get_many(f"{REQUESTS}/{name}" for name in names)
        return [record["state"] for record in records if record].count("requested")


def _node() -> Record:
    now = time.time()
    connection = {
        "name": "nowhere",
        "namespace": "nowhere",
        "host": "https://127.0.0.1:6443",
        "skiptls": False,
        "token": TOKEN,
        "user": "zuul-worker",
        "ca_crt": AUTHORITY,
    }
    return {
        "state": "in-use",
        "state_time": now,
        "created_time": now,
        "type": [LABEL],
        "provider": PROVIDER,
        "pool": POOL,
        "allocated_to": "200-0000000000",
        "tenant_name": "bench",
        "requestor": "zuul-bench",
        "connection_type": "namespace",
        "connection_port": connection,
        "ssh_port": connection,
        "resources": {"cores": 0, "instances": 1, "ram": 0},
        "driver_data": {"nodepool_k8s": {"type": "namespace", "claimed": {"instances": 1000}}},
    }
