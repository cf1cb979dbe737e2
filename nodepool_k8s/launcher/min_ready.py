"""Spare nodes: requests for ``min-ready`` nodes of each label, by one launcher of all.

As in Nodepool, a spare node is requested with the lowest priority, and any pool of any
launcher may serve it. For each label, the launcher that owns its ephemeral znode submits
the requests; when that launcher ends, another one takes over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from nodepool_k8s.config.settings import Settings
from nodepool_k8s.errors import ConnectionLost, SessionLost
from nodepool_k8s.model import MIN_READY, NodeRequest, NodeState, RequestState
from nodepool_k8s.znodes.paths import label_of_min_ready
from nodepool_k8s.znodes.requests import SPARE, is_own_spare, refusal_reasons
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Store

log = logging.getLogger(__name__)

PRIORITY = "900"
"""As in Nodepool: below every priority that Zuul uses."""

FIRST_RETRY_SECONDS = 10.0
LONGEST_RETRY_SECONDS = 300.0
"""After a request for a spare node failed: there was no room, or the launch failed."""
LOST_SECONDS = 1.0
"""How long to wait after a lost connection, until requests created before it are known."""


_NOT_READY_YET = (NodeState.INIT, NodeState.BUILDING)


class MinReady:
    """Submits the requests for spare nodes of the labels that this launcher owns."""

    def __init__(self, settings: Settings, store: Store, mirror: Mirror) -> None:
        self._store = store
        self._mirror = mirror
        self._wanted: Mapping[str, int] = {}
        self._owned: set[str] = set()
        """Labels whose spare nodes this launcher requests."""
        self._others: set[str] = set()
        """Labels whose spare nodes another launcher requests."""
        self._asked: dict[str, str] = {}
        """The label of each request for a spare node, of any launcher."""
        self._submitted: set[str] = set()
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        """The loop's time before which a label's spare nodes are not requested again."""
        self._wake = asyncio.Event()
        self.reconfigure(settings)
        for request_id, request in mirror.requests.items():
            self.request_changed(request_id, request)

    def reconfigure(self, settings: Settings) -> None:
        """Apply other labels, or other numbers of nodes."""
        served = {name for pool in settings.pools for name in pool.labels}
        labels = settings.labels.values()
        self._wanted = {
            label.name: label.min_ready
            for label in labels
            if label.min_ready > 0 and label.name in served
        }
        self._wake.set()

    # --- events -------------------------------------------------------------------------

    def owner_changed(self, path: str) -> None:
        """The owner of a label's spare nodes changed, or has left."""
        label = label_of_min_ready(path)
        if label in self._others:
            self._others.discard(label)
            self._wake.set()

    def nodes_changed(self) -> None:
        """A node came, changed or went."""
        if self._wanted or self._owned:
            self._wake.set()

    def request_changed(self, request_id: str, request: NodeRequest | None) -> None:
        """A request came, changed or went (None)."""
        if request is None:
            if self._asked.pop(request_id, None) is not None:
                self._submitted.discard(request_id)
                self._wake.set()
        elif request.for_spare and len(request.node_types) == 1:
            self._asked[request_id] = request.node_types[0]
            self._wake.set()

    # --- what it does --------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the numbers of spare nodes until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.step()
            except SessionLost:
                raise
            except ConnectionLost:
                # A request may have been created or not: its watch event tells.
                asyncio.get_running_loop().call_later(LOST_SECONDS, self._wake.set)

    async def step(self) -> None:
        """Request the spare nodes that are missing, of the labels that this launcher owns."""
        for label in sorted(self._owned - self._wanted.keys()):
            await self._clear_answered(label)
            # No other launcher would remove requests that are not answered yet.
            if not self._under_way(label):
                self._owned.discard(label)
                await self._store.give_up_min_ready(label)
        for label, number in sorted(self._wanted.items()):
            if await self._is_ours(label):
                await self._clear_answered(label)
                await self._ask(label, number)

    async def _is_ours(self, label: str) -> bool:
        """Whether this launcher owns the label; takes it if no launcher does."""
        if label in self._owned or label in self._others:
            return label in self._owned
        # Set before the response, as an event may come while we wait for it.
        self._others.add(label)
        if await self._store.take_min_ready(label):
            self._others.discard(label)
            self._owned.add(label)
        return label in self._owned

    async def _clear_answered(self, label: str) -> None:
        """Delete requests that were answered; any request may have their nodes."""
        for request in self._requests(label):
            if request.state is RequestState.FAILED:
                log.info("No spare node of label %s: %s", label, _reasons(request))
                self._put_off(label)
            elif request.state is RequestState.FULFILLED and not await self._is_awaited(request):
                self._failures.pop(label, None)
            else:
                continue
            self._asked.pop(request.id, None)
            self._submitted.discard(request.id)
            await self._store.delete_request(request.id)

    async def _is_awaited(self, request: NodeRequest) -> bool:
        """Whether its node's record is not ready yet, so that only the request counts it."""
        for node_id in request.nodes:
            if node_id not in self._mirror.nodes:
                # Deleted already, or its watch event has not arrived yet.
                await self._store.refresh_node(node_id)
        nodes = (self._mirror.nodes.get(node_id) for node_id in request.nodes)
        return any(node is not None and node.state in _NOT_READY_YET for node in nodes)

    async def _ask(self, label: str, number: int) -> None:
        """Submit requests, one for each node, so that several pools can serve them."""
        if asyncio.get_running_loop().time() < self._not_before.get(label, 0.0):
            return
        missing = number - self._mirror.spare(label) - self._under_way(label)
        for _ in range(missing):
            request_id = await self._store.submit_spare(_request(label), PRIORITY)
            self._asked[request_id] = label
            self._submitted.add(request_id)
        if missing > 0:
            log.info("Asked for %d spare nodes of label %s", missing, label)

    def _under_way(self, label: str) -> int:
        return sum(wanted == label for wanted in self._asked.values())

    def _requests(self, label: str) -> list[NodeRequest]:
        """The label's requests that our launchers submitted; Nodepool's have their own."""
        known = (self._mirror.requests.get(each) for each, of in self._asked.items() if of == label)
        return [
            request
            for request in known
            if request and (request.id in self._submitted or is_own_spare(request))
        ]

    def _put_off(self, label: str) -> None:
        failures = self._failures[label] = self._failures.get(label, 0) + 1
        seconds = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 10))
        loop = asyncio.get_running_loop()
        self._not_before[label] = loop.time() + seconds
        loop.call_later(seconds, self._wake.set)


def _request(label: str) -> NodeRequest:
    now = time.time()
    return NodeRequest(
        id="",
        state=RequestState.REQUESTED,
        state_time=now,
        created_time=now,
        node_types=(label,),
        requestor=MIN_READY,
        extra=SPARE,
    )


def _reasons(request: NodeRequest) -> str:
    return "; ".join(refusal_reasons(request)) or "no pool can serve it"
