"""One pool's queue: which request it takes next, and the claim.

Everything here is woken: by a request that comes, changes or goes, by a pool that
pauses, by a change of the quota ledger. What to do with a request is decided by
``policy.allocation``; that it fits is decided inside the claim's transaction.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from nodepool_k8s import telemetry
from nodepool_k8s.drivers.driver import Driver
from nodepool_k8s.errors import Conflict, ConnectionLost, SessionLost
from nodepool_k8s.launcher.claim import Claims, TenantLimits, labels_to_launch
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.launcher.launch_slots import CreateSlots, LaunchSlots
from nodepool_k8s.logs import bind_log_context
from nodepool_k8s.model import (
    EMPTY,
    Component,
    Node,
    NodeRequest,
    Resources,
)
from nodepool_k8s.policy import allocation, quota
from nodepool_k8s.policy.request_queue import FairShare, Group, RequestQueue
from nodepool_k8s.znodes.paths import node_path, request_path, tenant_ledger_path, tenant_of_ledger
from nodepool_k8s.znodes.requests import wants_reuse
from nodepool_k8s.zookeeper.ledger import AtQuota
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Claim, NodeTaken, Store

log = logging.getLogger(__name__)

CONNECTING_SECONDS = 5.0
"""How long others of lower priority wait for a pool whose cluster is being connected to."""

LOST_SECONDS = 3.0
"""How long a pool goes on, and others wait for it, when it has lost touch with its cluster.
A watch that is cut is back within that."""

WAKE_LATE = 0.01
"""A timer may go off a moment too early."""


class PoolQueueObserver(Protocol):
    """Serves what a queue has claimed."""

    def claimed(self, queue: PoolQueue, context: LaunchContext, claim: Claim) -> None:
        """A request was claimed, under these settings."""


class ReadyNodes(Protocol):
    """What a queue asks about its pool's ready nodes."""

    def is_usable(self, context: LaunchContext, node: Node) -> bool:
        """Whether a ready node may be handed out."""

    async def remove_spare(self, node: Node, reason: str) -> bool:
        """Delete an unused ready node, for that reason; False if another launcher was faster."""


class PoolQueue:
    """The requests that wait for one pool, in order, and their claims one at a time."""

    def __init__(
        self,
        context: LaunchContext,
        component: Component,
        launch_slots: LaunchSlots,
        store: Store,
        mirror: Mirror,
        ready_nodes: ReadyNodes,
        observer: PoolQueueObserver,
        tenant_limits: TenantLimits = EMPTY,
    ) -> None:
        self.pool = context.pool
        self.component = component
        self.launch_slots = launch_slots
        self.component_path = ""
        self.waits_for = ""
        """What the first request in the queue is waiting for; empty when nothing waits."""
        self._pauses = False
        """Whether that is a reason for others not to wait for this pool."""
        self._patient_until = 0.0
        """The loop's time at which it looks again whether its cluster is back."""
        self._store = store
        self._mirror = mirror
        self._ready = ready_nodes
        self._observer = observer
        self._claims = Claims(context, tenant_limits, store, mirror)
        self._shown = component
        """The component's record as it stands in ZooKeeper."""
        self._queue = self._new_queue()
        self._taken: set[str] = set()
        """Ready nodes that others had taken when we asked, in this step."""
        self._declines: dict[str, str] = {}
        self.create_slots = CreateSlots(self)
        self._stopped = False
        self._yielded: set[str] = set()
        self._foreign_seen: dict[str, Resources] = {}
        launch_slots.observe(self)
        self._wake = asyncio.Event()

    def reconfigure(self, context: LaunchContext, tenant_limits: TenantLimits) -> None:
        """Serve under these settings from now on; what is claimed keeps those it began with.

        It is still the same pool, registered under the same id.
        """
        if context == self._claims.context and tenant_limits == self._claims.tenant_limits:
            return
        self.pool = context.pool
        self._claims = Claims(context, tenant_limits, self._store, self._mirror)
        self.component = dataclasses.replace(
            self.component,
            supported_labels=frozenset(context.pool.labels),
            priority=context.pool.priority,
        )
        self._queue = self._new_queue()
        for request_id in list(self._mirror.requests):
            self.offer(request_id)
        self.wake()

    def _new_queue(self) -> RequestQueue:
        if not self.pool.fair_share:
            return RequestQueue()
        ledger = self._claims.ledger
        return RequestQueue(
            FairShare(self.pool.limits, lambda tenant: self._mirror.held(ledger, tenant))
        )

    # --- what wakes it --------------------------------------------------------------------

    def offer(self, request_id: str) -> None:
        """Look at a request that came, changed, went, or was unlocked."""
        self._forget(request_id)
        request = self._mirror.requests.get(request_id)
        if request is None or self._mirror.request_locked(request_id):
            if self.waits_for:
                # It may have been the one that waits: the next may fit, or nothing waits now.
                self.wake()
            return
        match self._answer(request):
            case allocation.Take(wanted):
                self._enqueue(request, wanted)
            case allocation.Decline(reason):
                self._declines[request_id] = reason
                self.wake()
            case allocation.Yield(reason):
                self._yielded.add(request_id)
                log.debug("Pool %s yields request %s: %s", self.pool.key, request_id, reason)

    def _answer(self, request: NodeRequest) -> allocation.Answer:
        components = self._mirror.components.values()
        return allocation.answer(
            request, self.pool, self.component.id, components, self._claims.usage
        )

    def components_changed(self) -> None:
        """Pools came, went or paused: look anew at what was left to others."""
        for request_id in list(self._yielded):
            self.offer(request_id)

    def wake(self) -> None:
        """There may be something to do: room in the quota, for instance."""
        self._wake.set()

    def ledger_changed(self, path: str) -> None:
        """A ledger was written: there may be room in it."""
        tenant = tenant_of_ledger(path)
        if path == self._claims.ledger or (tenant is not None and self._queue.unpark(tenant)):
            self.wake()

    def nodes_changed(self) -> None:
        """Nodes came, changed or went: wake where what is in no ledger may have made room."""
        if self.waits_for and self._foreign_changed(self._claims.ledger):
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

    def _enqueue(self, request: NodeRequest, wanted: Resources) -> None:
        limited = self._claims.counted_for(request)
        group: Group = None if limited is None else (limited, wanted)
        self._queue.add(request.id, allocation.order(request), group, request.tenant_name, wanted)
        self.wake()

    def _forget(self, request_id: str) -> None:
        self._declines.pop(request_id, None)
        self._yielded.discard(request_id)
        self._queue.discard(request_id)

    # --- what it does -----------------------------------------------------------------------

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
        """Decline what is to be declined, and claim what fits."""
        while self._declines:
            request_id, reason = next(iter(self._declines.items()))
            del self._declines[request_id]
            await self._decline(request_id, reason)
        self._taken.clear()
        while not self._stopped and (request := self._first()):
            if not await self._serve(request):
                break
        else:
            self._wait_for("", pauses=False)
        self._claims.context.observer.progressed()
        await self._show(paused=self._pauses or self._is_cluster_away())

    def _wait_for(self, reason: str, *, pauses: bool) -> None:
        self.waits_for, self._pauses = reason, pauses

    def _first(self) -> NodeRequest | None:
        """The request whose turn it is; who may have it can have changed while it waited."""
        while (request_id := self._queue.first()) is not None:
            request = self._mirror.requests[request_id]
            if isinstance(self._answer(request), allocation.Take):
                return request
            self.offer(request_id)
        return None

    async def _serve(self, request: NodeRequest) -> bool:
        """Claim the first request of the line; False where the pool has to wait."""
        ready = self._ready_nodes(request)
        if self._waits_for_cluster() or (None in ready and self._has_no_launch_slot()):
            return False
        # What is configured while it waits for ZooKeeper is for the next one.
        claims = self._claims
        try:
            claim = await self._claim(claims, request, ready)
        except AtQuota as full:
            return await self._without_room(request, ready, full)
        except NodeTaken as taken:
            telemetry.claim_conflicted(self.pool)
            self._taken.add(taken.node_id)
            self._mirror.reread(node_path(taken.node_id))
        except SessionLost:
            raise
        except ConnectionLost:
            # Whether anything was made is unknown; upkeep removes drafts that nobody claims.
            self.wake()
            return False
        except Conflict:
            # It changed, went, or somebody holds it: the mirror is reading it, and offers it
            # again when it may be had.
            telemetry.claim_conflicted(self.pool)
            self._forget(request.id)
        else:
            self._forget(request.id)
            self._wait_for("", pauses=False)
            self._observer.claimed(self, claims.context, claim)
        return True

    async def _claim(
        self, claims: Claims, request: NodeRequest, ready: Sequence[Node | None]
    ) -> Claim:
        # The provider's other pools claim while we wait for ZooKeeper.
        launches = ready.count(None)
        self.launch_slots.reserve(launches)
        try:
            return await claims.claim(request, ready)
        except BaseException:
            self.launch_slots.free(launches)
            raise

    def _has_no_launch_slot(self) -> bool:
        """Whether nothing may be launched now, quota or not."""
        if self.create_slots.refused:
            self._wait_for("a ResourceQuota of the cluster", pauses=True)
        elif self.launch_slots.full:
            # Busy and not full: whoever is to be served here is served here, and soon.
            reason = f"max-concurrency: {self.launch_slots.launching} launches under way"
            self._wait_for(reason, pauses=False)
            self.launch_slots.hold_back(self)
        else:
            return False
        return True

    def _waits_for_cluster(self) -> bool:
        if self._claims.context.driver.health.in_sync and not self._is_cluster_away():
            return False
        self._wait_for(f"the cluster of provider {self.pool.provider}", pauses=False)
        return True

    def _is_cluster_away(self) -> bool:
        """Whether the cluster has not answered for so long that nobody shall wait for it."""
        health = self._claims.context.driver.health
        since = health.out_of_touch_since
        if since is None:
            return False
        loop = asyncio.get_running_loop()
        until = since + (LOST_SECONDS if health.in_sync else CONNECTING_SECONDS)
        if loop.time() >= until:
            return True
        if until != self._patient_until:
            self._patient_until = until
            loop.call_at(until + WAKE_LATE, self.wake)
        return False

    # --- ready nodes -----------------------------------------------------------------------

    def _ready_nodes(self, request: NodeRequest) -> list[Node | None]:
        """For each label of the request a ready node to hand out, or None: one is launched."""
        if not wants_reuse(request):
            return [None] * len(request.node_types)
        chosen: list[Node | None] = []
        for label in request.node_types:
            taken = {node.id for node in chosen if node is not None}
            nodes = (node for node in self._unused((label,)) if node.id not in taken)
            usable = (node for node in nodes if self._ready.is_usable(self._claims.context, node))
            chosen.append(next(usable, None))
        return chosen

    def _unused(self, labels: Iterable[str]) -> Iterable[Node]:
        """This pool's ready nodes that are nobody's, by label, each label's oldest first."""
        for label in labels:
            for node in self._mirror.unused(label):
                free = node.id not in self._taken and not self._mirror.node_locked(node.id)
                if self._is_ours(node) and free and node.claimed is not None:
                    yield node

    def _is_ours(self, node: Node) -> bool:
        return (node.provider, node.pool) == (self.pool.provider, self.pool.name)

    # --- without room ----------------------------------------------------------------------

    async def _without_room(
        self, request: NodeRequest, ready: Sequence[Node | None], full: AtQuota
    ) -> bool:
        """Wait, or let others go first; whether the next in line may try."""
        if request.id not in self._queue:
            # It changed or went while we looked at the ledger.
            return True
        if full.path != self._claims.ledger:
            self._foreign_seen[full.path] = self._mirror.usage(full.path).foreign
            self._queue.park(request.id)
            log.debug("Request %s waits for its tenant's %s", request.id, self.why_waits(request))
            return True
        wanted = self._claims.wanted(labels_to_launch(request, ready))
        reason = quota.waits_for(self.pool.limits, self._claims.used(), wanted)
        self._wait_for(reason, pauses=True)
        self._foreign_seen[self._claims.ledger] = self._mirror.usage(self._claims.ledger).foreign
        if request.for_spare:
            # It is for whoever comes; making whoever is here wait for it helps nobody.
            await self._decline(request.id, f"no room for a spare node: {self.waits_for}")
            self._forget(request.id)
            return True
        log.debug("Request %s waits for %s", request.id, self.waits_for)
        self._queue.pin(request.id)
        await self._make_room(request, ready, wanted)
        return False

    async def _make_room(
        self, request: NodeRequest, ready: Sequence[Node | None], wanted: Resources
    ) -> None:
        """Remove an unused ready node, if that serves the request.

        Another launcher may be removing one for it just now. So one goes only where it is
        still the one to go after everything that others have done by then was looked at.
        """
        kept = {node.id for node in ready if node is not None}
        while (spare := self._spare_to_remove(wanted, kept)) is not None:
            await self._catch_up()
            if request.id not in self._queue:
                # It changed or went meanwhile.
                return
            if _ids(self._ready_nodes(request)) != _ids(ready):
                # What became free meanwhile serves the request itself.
                self.wake()
                return
            if self._spare_to_remove(wanted, kept) != spare:
                continue
            if await self._ready.remove_spare(spare, f"request {request.id} needs its room"):
                return
            self._taken.add(spare.id)

    async def _catch_up(self) -> None:
        """Have the mirror show what is leaving, and what has left the ledger, by now."""
        contended = [
            node.id
            for label in self.pool.labels
            for node in self._mirror.unused(label)
            if self._is_ours(node) and self._mirror.node_locked(node.id)
        ]
        await self._store.catch_up(self._claims.ledger, contended)

    def _spare_to_remove(self, wanted: Resources, kept: set[str]) -> Node | None:
        unused = [node for node in self._unused(self.pool.labels) if node.id not in kept]
        unused.sort(key=lambda node: (node.state_time, node.id))
        leaving = self._mirror.usage(self._claims.ledger).leaving
        return quota.spare_to_remove(self.pool.limits, self._claims.used(), leaving, wanted, unused)

    def why_waits(self, request: NodeRequest) -> str:
        """What a request in this pool's line is waiting for, for a person."""
        if self._queue.is_parked(request.id) and request.tenant_name is not None:
            path = tenant_ledger_path(request.tenant_name)
            limits = self._claims.tenant_limits[request.tenant_name]
            return quota.waits_for(
                limits, self._claims.used(path), self._claims.wanted(request.node_types)
            )
        return self.waits_for or "its turn"

    def __contains__(self, request_id: object) -> bool:
        """Whether a request is in line."""
        return request_id in self._queue

    @property
    def waiting_count(self) -> int:
        """How many requests are in line."""
        return len(self._queue)

    @property
    def waiting(self) -> list[str]:
        """Ids of the requests in line, in order."""
        return self._queue.in_order()

    # --- declining -------------------------------------------------------------------------

    async def _decline(self, request_id: str, reason: str) -> None:
        request = self._mirror.requests.get(request_id)
        if request is None:
            return
        bind_log_context(request=request.id, event_id=request.event_id)
        declined = allocation.declined(
            request,
            self.component.id,
            self.pool.key,
            reason,
            self._mirror.components.values(),
            time.time(),
        )
        try:
            written = await self._store.rewrite_request(declined)
        except SessionLost:
            raise
        except Conflict:
            self._mirror.reread(request_path(request_id))
        else:
            telemetry.request_answered(written, self.pool)
            log.info("Declined request %s of %s: %s", request.id, request.requestor, reason)

    async def _show(self, *, paused: bool) -> None:
        """Let other launchers know, who yield to a pool of higher priority unless it pauses."""
        self.component = dataclasses.replace(self.component, paused=paused)
        while self._shown != self.component and self.component_path:
            self._shown = self.component
            await self._store.update_component(self.component_path, self._shown)


def _ids(nodes: Sequence[Node | None]) -> list[str | None]:
    return [node.id if node is not None else None for node in nodes]
