"""The queue of one pool: the requests that wait for it, in order, and their claims.

``policy.allocation`` decides whether a request belongs into the queue, ``policy.next_action``
what the queue does next, and the claim's transaction whether the request fits. The queue
sleeps until an event wakes it: a request, a ledger, a pool, a node, a slot, a backend.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from nodepool_k8s import telemetry
from nodepool_k8s.drivers.driver import Driver
from nodepool_k8s.errors import Conflict, ConnectionLost, SessionLost
from nodepool_k8s.launcher.claim import Claims, TenantLimits, labels_to_launch
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.launcher.launch_slots import CreateSlots, LaunchSlots
from nodepool_k8s.launcher.offered_requests import OfferedRequests
from nodepool_k8s.launcher.ready_nodes import ReadyNodes, SpareDeleter, ids
from nodepool_k8s.logs import bind_log_context
from nodepool_k8s.model import EMPTY, Component, Node, NodeRequest, Resources
from nodepool_k8s.policy import allocation
from nodepool_k8s.policy.next_action import (
    Action,
    AtPoolQuota,
    AtTenantQuota,
    ClaimRequest,
    DeclineRequest,
    Idle,
    Park,
    QueueView,
    RemoveSpare,
    Skip,
    Wait,
    WaitReason,
    WaitsForLaunchSlot,
    WaitsForQuota,
    is_away,
    next_action,
    patient_until,
)
from nodepool_k8s.znodes.paths import node_path, request_path, tenant_ledger_path, tenant_of_ledger
from nodepool_k8s.zookeeper.ledger import AtQuota
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Claim, NodeTaken, Store

log = logging.getLogger(__name__)

WAKE_LATE = 0.01
"""Seconds: a timer may go off a moment too early."""


class PoolQueueObserver(Protocol):
    """Serves what a queue has claimed."""

    def claimed(self, queue: PoolQueue, context: LaunchContext, claim: Claim) -> None:
        """A request was claimed, under these settings."""


class PoolQueue:
    """The requests that wait for one pool, in order, and their claims one at a time."""

    def __init__(
        self,
        context: LaunchContext,
        component: Component,
        launch_slots: LaunchSlots,
        store: Store,
        mirror: Mirror,
        deleter: SpareDeleter,
        observer: PoolQueueObserver,
        tenant_limits: TenantLimits = EMPTY,
    ) -> None:
        self.component = component
        self.component_path = ""
        self.launch_slots = launch_slots
        self.create_slots = CreateSlots(self)
        self._store = store
        self._mirror = mirror
        self._deleter = deleter
        self._observer = observer
        self._written = component
        """The component's record as it stands in ZooKeeper."""
        self._waits: WaitReason | None = None
        """Why the last action was to wait; None where it was another one."""
        self._patient_until = 0.0
        """The loop's time at which a timer is set, to see whether the backend is back."""
        self._foreign_seen: dict[str, Resources] = {}
        self._stopped = False
        self._wake = asyncio.Event()
        self._apply(context, tenant_limits)
        launch_slots.observe(self)

    def _apply(self, context: LaunchContext, tenant_limits: TenantLimits) -> None:
        self.pool = context.pool
        self._claims = Claims(context, tenant_limits, self._store, self._mirror)
        self._ready = ReadyNodes(context, self._mirror, self._deleter)
        self._offered = OfferedRequests(context, self._claims.usage, tenant_limits, self._mirror)
        self._queue = self._offered.queue

    def reconfigure(self, context: LaunchContext, tenant_limits: TenantLimits) -> None:
        """Serve under these settings from now on; what is claimed keeps those it began with.

        It is still the same pool, registered under the same id.
        """
        if context == self._claims.context and tenant_limits == self._claims.tenant_limits:
            return
        self._apply(context, tenant_limits)
        self.component = dataclasses.replace(
            self.component,
            supported_labels=frozenset(context.pool.labels),
            priority=context.pool.priority,
        )
        self.offer_all()
        self.wake()

    # --- events ---------------------------------------------------------------------------

    def offer_all(self) -> None:
        """Look at every request that is known."""
        for request_id, request in list(self._mirror.requests.items()):
            self.request_changed(request_id, request)

    def request_changed(self, request_id: str, request: NodeRequest | None) -> None:
        """A request came, changed, went (None), or was locked or unlocked."""
        self._offered.forget(request_id)
        if request is None or self._mirror.request_locked(request_id):
            if self._waits is not None:
                # It may have been the one that waits: the next may fit, or nothing waits now.
                self.wake()
            return
        if self._offered.offer(request):
            self.wake()

    def components_changed(self) -> None:
        """Pools came, went or paused: look again at the requests that were left to others."""
        for request_id in self._offered.yielded:
            self.request_changed(request_id, self._mirror.requests.get(request_id))

    def wake(self) -> None:
        """There may be something to do: room in the quota, for instance."""
        self._wake.set()

    def ledger_changed(self, path: str) -> None:
        """A ledger was written: there may be room in it."""
        tenant = tenant_of_ledger(path)
        if path == self._claims.ledger or (tenant is not None and self._queue.unpark(tenant)):
            self.wake()

    def nodes_changed(self) -> None:
        """Nodes came, changed or went: those that no ledger counts may have made room."""
        if self._waits is not None and self._foreign_changed(self._claims.ledger):
            self.wake()
        for tenant in self._queue.parked_tenants:
            path = tenant_ledger_path(tenant)
            if self._foreign_changed(path):
                self.ledger_changed(path)

    def _foreign_changed(self, ledger: str) -> bool:
        foreign = self._mirror.usage(ledger).foreign
        changed = foreign != self._foreign_seen.get(ledger, foreign)
        self._foreign_seen[ledger] = foreign
        return changed

    def health_changed(self, driver: Driver) -> None:
        """A driver is in touch again, or no longer; it may be this pool's."""
        if driver is self._claims.context.driver:
            self.wake()

    # --- what it shows --------------------------------------------------------------------

    @property
    def waits_for(self) -> str:
        """What the first request in the queue is waiting for; empty when nothing waits."""
        return "" if self._waits is None else str(self._waits)

    def why_waits(self, request: NodeRequest) -> str:
        """What a request in the queue is waiting for, for a person."""
        if self._queue.is_parked(request.id) and request.tenant_name is not None:
            return str(WaitsForQuota(self._claims.tenant_quota(request, request.tenant_name)))
        return self.waits_for or "its turn"

    def __contains__(self, request_id: object) -> bool:
        """Whether a request is in the queue."""
        return request_id in self._queue

    @property
    def waiting_count(self) -> int:
        """How many requests are in the queue."""
        return len(self._queue)

    @property
    def waiting(self) -> list[str]:
        """Ids of the requests in the queue, in order."""
        return self._queue.in_order()

    # --- the view -------------------------------------------------------------------------

    def _view(self) -> QueueView:
        """The view before a claim."""
        decline = self._offered.decline
        request = self._offered.head() if decline is None and not self._stopped else None
        return QueueView(
            provider=self.pool.provider,
            health=self._claims.context.driver.health,
            now=asyncio.get_running_loop().time(),
            decline=decline,
            request=request,
            ready=self._ready.for_request(request) if request is not None else (),
            backend_refuses=self.create_slots.refused,
            launching=self.launch_slots.launching,
            slots_full=self.launch_slots.full,
        )

    def _view_without_room(
        self, request: NodeRequest, ready: Sequence[Node | None], path: str
    ) -> QueueView:
        """The view after the request did not fit into that ledger."""
        at_quota: AtTenantQuota | AtPoolQuota | None = None
        if request.id in self._queue:
            tenant = tenant_of_ledger(path)
            if tenant is not None:
                at_quota = AtTenantQuota(self._claims.tenant_quota(request, tenant))
            else:
                at_quota = AtPoolQuota(
                    self._claims.pool_quota(labels_to_launch(request, ready)),
                    self._mirror.usage(self._claims.ledger).leaving,
                    self._ready.unused(but=[node.id for node in ready if node is not None]),
                )
        return QueueView(
            provider=self.pool.provider,
            health=self._claims.context.driver.health,
            now=asyncio.get_running_loop().time(),
            request=request,
            ready=ready,
            at_quota=at_quota,
            in_queue=at_quota is not None,
        )

    # --- the loop -------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the queue until stopped."""
        while not self._stopped:
            await self._wake.wait()
            self._wake.clear()
            await self.step()

    def stop(self) -> None:
        """Claim nothing more; a claim under way is finished."""
        self._stopped = True
        self.wake()

    async def step(self) -> None:
        """Act until there is nothing to do, or the pool has to wait."""
        self._ready.begin_step()
        while await self._act(next_action(self._view())):
            pass
        self._claims.context.observer.progressed()
        await self._show()

    async def _act(self, action: Action) -> bool:
        """Act before a claim; whether to look for the next action at once."""
        match action:
            case ClaimRequest(request, ready):
                return await self._claim(request, ready)
            case DeclineRequest():
                await self._decline(action)
                return True
            case Wait(reason):
                self._waits = reason
                if isinstance(reason, WaitsForLaunchSlot):
                    self.launch_slots.hold_back(self)
            case Idle():
                self._waits = None
        return False

    async def _claim(self, request: NodeRequest, ready: Sequence[Node | None]) -> bool:
        # Settings that change while it waits for ZooKeeper apply to the next claim.
        claims = self._claims
        try:
            # The provider's other pools claim while this one waits for ZooKeeper.
            with self.launch_slots.reserved(ready.count(None)):
                claim = await claims.claim(request, ready)
        except AtQuota as full:
            return await self._without_room(request, ready, full.path)
        except NodeTaken as taken:
            telemetry.claim_conflicted(self.pool)
            self._ready.exclude(taken.node_id)
            self._mirror.reread(node_path(taken.node_id))
        except SessionLost:
            raise
        except ConnectionLost:
            # Whether anything was created is unknown; upkeep deletes drafts without a claim.
            self.wake()
            return False
        except Conflict:
            # It changed, went, or is locked: the mirror rereads it, and offers it again when
            # it can be claimed.
            telemetry.claim_conflicted(self.pool)
            self._offered.forget(request.id)
        else:
            self._offered.forget(request.id)
            self._waits = None
            self._observer.claimed(self, claims.context, claim)
        return True

    # --- without room ---------------------------------------------------------------------

    async def _without_room(
        self, request: NodeRequest, ready: Sequence[Node | None], path: str
    ) -> bool:
        """Act after a claim that did not fit; whether to look for the next action at once."""
        action = next_action(self._view_without_room(request, ready, path))
        if not isinstance(action, Skip):
            self._foreign_seen[path] = self._mirror.usage(path).foreign
        match action:
            case Park(reason=reason):
                self._queue.park(request.id)
                log.debug("Request %s waits for its tenant's %s", request.id, reason)
            case DeclineRequest():
                await self._decline(action)
            case Wait(reason=reason) | RemoveSpare(reason=reason):
                self._waits = reason
                log.debug("Request %s waits for %s", request.id, reason)
                self._queue.pin(request.id)
                await self._make_room(action, request, ready)
                return False
        return True

    async def _make_room(
        self, action: Action, request: NodeRequest, ready: Sequence[Node | None]
    ) -> None:
        """Remove an unused ready node, if that serves the request.

        Another launcher may be removing one for the same request. So the node is removed only
        if it is still the one to remove after the mirror has caught up with all that others
        have done.
        """
        ledger = self._claims.ledger
        while isinstance(action, RemoveSpare):
            await self._store.catch_up(ledger, self._ready.contended())
            if request.id not in self._queue:
                # It changed or went meanwhile.
                return
            if ids(self._ready.for_request(request)) != ids(ready):
                # A node that became free meanwhile serves the request itself.
                self.wake()
                return
            chosen = action
            action = next_action(self._view_without_room(request, ready, ledger))
            if not isinstance(action, RemoveSpare) or action.node != chosen.node:
                continue
            if await self._deleter.remove_spare(
                action.node, f"request {request.id} needs its room"
            ):
                return
            self._ready.exclude(action.node.id)
            action = next_action(self._view_without_room(request, ready, ledger))

    # --- writing --------------------------------------------------------------------------

    async def _decline(self, decline: DeclineRequest) -> None:
        request = decline.request
        # Before the write: what it changes is offered again.
        self._offered.forget(request.id)
        bind_log_context(request=request.id, event_id=request.event_id)
        components = self._mirror.components.values()
        declined = allocation.declined(
            request, self.component.id, self.pool.key, decline.reason, components, time.time()
        )
        try:
            written = await self._store.rewrite_request(declined)
        except SessionLost:
            raise
        except Conflict:
            self._mirror.reread(request_path(request.id))
        else:
            telemetry.request_answered(written, self.pool)
            log.info("Declined request %s of %s: %s", request.id, request.requestor, decline.reason)

    async def _show(self) -> None:
        """Tell other launchers, who yield to a pool of higher priority unless it pauses."""
        paused = self._waits is not None and self._waits.pauses
        self.component = dataclasses.replace(
            self.component, paused=paused or self._is_backend_away()
        )
        while self._written != self.component and self.component_path:
            self._written = self.component
            await self._store.update_component(self.component_path, self._written)

    def _is_backend_away(self) -> bool:
        """Whether the backend is away for too long; sets a timer for when that may be so."""
        loop = asyncio.get_running_loop()
        health = self._claims.context.driver.health
        until = patient_until(health)
        if until is not None and loop.time() < until and until != self._patient_until:
            self._patient_until = until
            loop.call_at(until + WAKE_LATE, self.wake)
        return is_away(health, loop.time())
