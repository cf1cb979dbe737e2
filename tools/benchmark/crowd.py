"""What merely exists: node records in use and requests that wait, written straight to ZooKeeper.

The records look as the launcher writes them, and their locks are held, as a requestor does
that uses its nodes. There are no namespaces behind them: an idle launcher asks for none.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kazoo.client import KazooClient

from benchmark.requestor import NODES, PREFIX, REQUESTS, request

LABEL = "crowded"
POOL = "bench-crowded"
PROVIDER = "bench"
IN_FLIGHT = 500
"""Writes on their way at a time."""
SESSION_S = 60.0
ANSWER_S = 60.0
TOKEN = "t" * 1000
AUTHORITY = "c" * 1500
"""As long as a real access token and a real certificate are."""


@dataclass(frozen=True)
class Znode:
    """One to be created; with ``sequence``, the server ends its name."""

    path: str
    data: bytes = b""
    sequence: bool = False
    ephemeral: bool = False


class Crowd:
    """Nodes and requests that are there while something else is measured."""

    def __init__(self, hosts: str) -> None:
        self._client = KazooClient(hosts=hosts, timeout=SESSION_S)
        self._client.start()
        self.nodes: list[str] = []

    def close(self) -> None:
        """Let go of every lock."""
        self._client.stop()
        self._client.close()

    def use_nodes(self, count: int) -> None:
        """Have so many more nodes in use."""
        self._client.ensure_path(NODES)
        data = [_encode(_node()) for _ in range(count)]
        paths = self._all(Znode(f"{NODES}/", each, sequence=True) for each in data)
        self._all(Znode(f"{path}/lock") for path in paths)
        child = f"lock/{uuid.uuid4().hex}__lock__0000000000"
        self._all(Znode(f"{path}/{child}", ephemeral=True) for path in paths)
        self.nodes += paths

    def wait(self, count: int) -> None:
        """Have so many more requests wait for a place in the crowded pool."""
        self._client.ensure_path(REQUESTS)
        data = [_encode(request(LABEL)) for _ in range(count)]
        self._all(Znode(f"{REQUESTS}/{PREFIX}", each, sequence=True) for each in data)

    def return_nodes(self, count: int) -> None:
        """Mark so many nodes used, and let them go."""
        going, self.nodes = self.nodes[:count], self.nodes[count:]
        for path in going:
            data, _ = self._client.get(path)
            record = json.loads(data)
            self._client.set(path, _encode({**record, "state": "used"}))
            for child in self._client.get_children(f"{path}/lock"):
                self._client.delete(f"{path}/lock/{child}")

    def waiting(self) -> int:
        """How many requests nobody has taken yet."""
        paths = [f"{REQUESTS}/{name}" for name in self._client.get_children(REQUESTS)]
        found = [self._client.get_async(path) for path in paths]
        states = [json.loads(result.get(timeout=ANSWER_S)[0])["state"] for result in found]
        return states.count("requested")

    def _all(self, znodes: Iterable[Znode]) -> list[str]:
        """Create them, many at a time; their paths."""
        made: list[str] = []
        batch: list[Any] = []
        for znode in znodes:
            batch.append(
                self._client.create_async(
                    znode.path, znode.data, ephemeral=znode.ephemeral, sequence=znode.sequence
                )
            )
            if len(batch) == IN_FLIGHT:
                made += [result.get(timeout=ANSWER_S) for result in batch]
                batch.clear()
        return made + [result.get(timeout=ANSWER_S) for result in batch]


def _node() -> dict[str, Any]:
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


def _encode(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode()
