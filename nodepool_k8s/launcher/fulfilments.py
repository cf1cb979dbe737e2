"""The requests that this launcher has claimed, each fulfilled in a task of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from nodepool_k8s.errors import NotHeld
from nodepool_k8s.launcher.delete import Deleter
from nodepool_k8s.launcher.fulfil import Fulfilment
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.launcher.pool_queue import PoolQueue
from nodepool_k8s.launcher.tasks import Tasks
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Claim

log = logging.getLogger(__name__)


class FulfilmentsObserver(Protocol):
    """Takes up a request again when this launcher has left it."""

    def fulfilment_ended(self, request_id: str) -> None:
        """A request was fulfilled, declined or given back; its changes were not looked at."""


class Fulfilments:
    """Begins a fulfilment for each claim, as the observer of all queues."""

    def __init__(self, mirror: Mirror, deleter: Deleter, tasks: Tasks) -> None:
        self._mirror = mirror
        self._deleter = deleter
        self._tasks = tasks
        self._by_request: dict[str, Fulfilment] = {}
        self._observer: FulfilmentsObserver | None = None

    @property
    def by_request(self) -> Mapping[str, Fulfilment]:
        """The requests that are being fulfilled, by id."""
        return self._by_request

    def observe(self, observer: FulfilmentsObserver) -> None:
        """Tell this one of each fulfilment that has ended."""
        self._observer = observer

    def claimed(self, queue: PoolQueue, context: LaunchContext, claim: Claim) -> None:
        """Fulfil a request that a queue has claimed."""
        fulfilment = Fulfilment(
            claim, context, queue.launch_slots, queue.create_slots, self._mirror, self._deleter
        )
        request_id = claim.request.id
        self._by_request[request_id] = fulfilment
        self._tasks.spawn(f"fulfil {request_id}", self._run(request_id, fulfilment))
        if request_id not in self._mirror.requests:
            fulfilment.abandon("the request is gone")

    async def _run(self, request_id: str, fulfilment: Fulfilment) -> None:
        try:
            await fulfilment.run()
        except NotHeld as error:
            log.warning("Left request %s alone: %s", request_id, error)
        finally:
            del self._by_request[request_id]
        if self._observer is not None:
            self._observer.fulfilment_ended(request_id)

    def abandon_all(self, reason: str) -> None:
        """Give every request back: the launcher stops."""
        for fulfilment in self._by_request.values():
            fulfilment.abandon(reason)
