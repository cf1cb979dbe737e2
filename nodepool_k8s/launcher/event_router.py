"""The route of each event, from ZooKeeper's records and from the backends.

A request goes to the fulfilment that serves it or else to the queues of all pools, a node to
the deleter, a ledger to the queues that wait for it. A record is looked up here, once, and
passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from nodepool_k8s.drivers.driver import Driver
from nodepool_k8s.launcher.delete import Deleter
from nodepool_k8s.launcher.fulfil import Fulfilment
from nodepool_k8s.launcher.min_ready import MinReady
from nodepool_k8s.launcher.pool_queue import PoolQueue
from nodepool_k8s.launcher.provider_upkeep import ProviderUpkeep
from nodepool_k8s.launcher.tasks import Tasks
from nodepool_k8s.launcher.upkeep import Upkeep
from nodepool_k8s.model import NodeRequest, RequestState
from nodepool_k8s.zookeeper.mirror import Kind, Mirror
from nodepool_k8s.zookeeper.store import Store


class ProgressObserver(Protocol):
    """Tells requestors what their requests wait for."""

    def request_changed(self, request_id: str, request: NodeRequest | None) -> None:
        """A request came, changed, went (None), or was locked or unlocked."""

    def record_gone(self, request_id: str) -> None:
        """The progress record of a request was removed."""


class EventRouter:
    """Observes the mirror, the providers and the fulfilments of one session."""

    def __init__(
        self,
        mirror: Mirror,
        store: Store,
        queues: Mapping[str, PoolQueue],
        fulfilments: Mapping[str, Fulfilment],
        deleter: Deleter,
        upkeep: Upkeep,
        provider_upkeep: ProviderUpkeep,
        min_ready: MinReady,
        progress: ProgressObserver,
        serving: Tasks,
        work: Tasks,
    ) -> None:
        """``serving`` ends when the launcher stops; ``work`` is finished first."""
        self._mirror = mirror
        self._store = store
        self._queues = queues
        self._fulfilments = fulfilments
        self._deleter = deleter
        self._upkeep = upkeep
        self._provider_upkeep = provider_upkeep
        self._min_ready = min_ready
        self._progress = progress
        self._serving = serving
        self._work = work

    # --- records --------------------------------------------------------------------------

    def record_changed(self, kind: Kind, name: str) -> None:
        """A record came, changed or went; for a request or a node, or its lock did."""
        match kind:
            case Kind.REQUEST | Kind.REQUEST_LOCK:
                self._request_changed(name)
            case Kind.NODE | Kind.NODE_LOCK:
                self._node_changed(name)
            case Kind.LEDGER:
                for queue in self._queues.values():
                    queue.ledger_changed(name)
            case Kind.MIN_READY:
                self._min_ready.owner_changed(name)
            case Kind.PROGRESS:
                self._progress.record_gone(name)
            case Kind.COMPONENT:
                for queue in self._queues.values():
                    queue.components_changed()

    def fulfilment_ended(self, request_id: str) -> None:
        """Look at a request that was left: what happened to it meanwhile was not looked at."""
        self._request_changed(request_id)

    def _request_changed(self, request_id: str) -> None:
        request = self._mirror.requests.get(request_id)
        self._min_ready.request_changed(request_id, request)
        self._progress.request_changed(request_id, request)
        fulfilment = self._fulfilments.get(request_id)
        if fulfilment is not None:
            if request is None:
                fulfilment.abandon("the request is gone")
            return
        if request is None:
            self._request_gone(request_id)
        elif request.state is RequestState.PENDING and not self._mirror.request_locked(request_id):
            self._work.spawn(f"reset {request_id}", self._upkeep.reset_request(request))
        for queue in self._queues.values():
            queue.request_changed(request_id, request)

    def _request_gone(self, request_id: str) -> None:
        self._deleter.consider_nodes_of(request_id)
        if not self._mirror.request_locked(request_id):
            self._work.spawn(
                f"drop the lock of {request_id}", self._store.drop_request_lock(request_id)
            )

    def _node_changed(self, node_id: str) -> None:
        self._deleter.consider(node_id)
        for queue in self._queues.values():
            queue.nodes_changed()
        self._min_ready.nodes_changed()

    # --- backends -------------------------------------------------------------------------

    def driver_started(self, driver: Driver) -> None:
        """Serve its pools, and begin its upkeep, when it knows what exists."""
        self._serving.spawn(f"serve provider {driver.provider.name}", self._serve(driver))

    def health_changed(self, driver: Driver) -> None:
        """A driver is in touch again, or no longer: its pools look again."""
        for queue in self._queues.values():
            queue.health_changed(driver)

    def node_lost(self, node_id: str, external_id: str) -> None:
        """A node's objects went or ended: a ready one cannot be handed out any more."""
        node = self._mirror.nodes.get(node_id)
        if node is not None and node.external_id == external_id:
            self._deleter.consider(node.id)

    async def _serve(self, driver: Driver) -> None:
        await driver.synced()
        for queue in self._queues.values():
            queue.wake()
        self._upkeep.consider_nodes()
        await self._provider_upkeep.run_for(driver)
