"""What a kubelet, or a user with kubectl, does to pods without asking a launcher."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp
from harness.api import MERGE, ApiClient, ApiError

from faults.judge import Judge

POD = "pod"
"""The pod's name: its label's."""
LOOK_S = 0.05
FOR_S = (2.0, 5.0)
SHARE = 0.4
"""Of the pods that one of these faults hits while it lasts."""
OURS = ("building", "ready")
"""States of nodes that a launcher looks after."""


class Pods:
    """Breaks pods of nodes that are building or ready."""

    def __init__(self, api: ApiClient, judge: Judge) -> None:
        self._api = api
        self._judge = judge

    async def while_they_come(
        self, rng: random.Random, hit: Callable[[str], Awaitable[None]]
    ) -> None:
        """For some seconds, do that to a share of the pods that exist or are created."""
        deadline = time.monotonic() + rng.uniform(*FOR_S)
        seen: set[str] = set()
        while time.monotonic() < deadline:
            for namespace in sorted(self._exposed() - seen):
                seen.add(namespace)
                if rng.random() < SHARE:
                    # The pod may be gone by now, and the API server may be down.
                    with suppress(ApiError, aiohttp.ClientError, TimeoutError, OSError):
                        await hit(namespace)
            await asyncio.sleep(LOOK_S)

    def _exposed(self) -> set[str]:
        nodes = self._judge.nodes.values()
        spaces = {each.get("external_id") for each in nodes if each["state"] in OURS}
        return self._judge.pods & {each for each in spaces if each}

    async def fail(self, namespace: str) -> None:
        """Its container ended with an error."""
        await self._report(namespace, {"phase": "Failed", "message": "made to fail"})

    async def evict(self, namespace: str) -> None:
        """Its Kubernetes node ran out of memory."""
        status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory"}
        await self._report(namespace, status)

    async def remove(self, namespace: str) -> None:
        """A user deletes it."""
        self._judge.history.note("its pod is deleted by a user", namespace)
        await self._api.call("DELETE", _path(namespace), {"gracePeriodSeconds": 0})

    async def _report(self, namespace: str, status: dict[str, Any]) -> None:
        reason = status.get("reason", status["phase"])
        self._judge.history.note(f"its pod is made to be {reason}", namespace)
        await self._api.call("PATCH", f"{_path(namespace)}/status", {"status": status}, MERGE)


def _path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{POD}"
