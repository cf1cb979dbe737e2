"""What happens to pods that no launcher did: as a kubelet, or somebody with a kubectl, does it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp

from faults.judge import Judge

POD = "pod"
"""The pod's name: its label's."""
MERGE = "application/merge-patch+json"
LOOK_S = 0.05
FOR_S = (2.0, 5.0)
SHARE = 0.4
"""Of the pods that are hit while one of these faults lasts."""
OURS = ("building", "ready")
"""States of nodes that a launcher still has to do with."""


class Pods:
    """Breaks pods of nodes that are being made, or are ready."""

    def __init__(self, session: aiohttp.ClientSession, judge: Judge) -> None:
        self._session = session
        self._judge = judge

    async def while_they_come(
        self, rng: random.Random, hit: Callable[[str], Awaitable[None]]
    ) -> None:
        """For some seconds, do that to a share of the pods that are there or come."""
        deadline = time.monotonic() + rng.uniform(*FOR_S)
        seen: set[str] = set()
        while time.monotonic() < deadline:
            for namespace in sorted(self._exposed() - seen):
                seen.add(namespace)
                if rng.random() < SHARE:
                    # It may be gone by now, and the API server may be away.
                    with suppress(aiohttp.ClientError, TimeoutError, OSError):
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
        """Somebody deleted it."""
        self._judge.history.note("its pod is made to vanish", namespace)
        async with self._session.delete(_path(namespace), json={"gracePeriodSeconds": 0}):
            pass

    async def _report(self, namespace: str, status: dict[str, Any]) -> None:
        reason = status.get("reason", status["phase"])
        self._judge.history.note(f"its pod is made to be {reason}", namespace)
        async with self._session.patch(
            f"{_path(namespace)}/status", json={"status": status}, headers={"Content-Type": MERGE}
        ):
            pass


def _path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{POD}"
