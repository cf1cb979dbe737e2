"""One pool's queue: which request it takes next, and the claim.

Everything here is woken: by a request that comes, changes or goes, by a pool that
pauses, by a change of the quota ledger. What to do with a request is decided by
``policy.allocation``; that it fits is decided inside the claim's transaction.
"""

from __future__ import annotations

import asyncio
import bisect
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nodepool_k8s import wire
from nodepool_k8s.config.settings import Label, Pool, Provider
from nodepool_k8s.errors import Conflict, ConnectionLost, SessionLost
from nodepool_k8s.logs import about
from nodepool_k8s.manifests import namespace_name
from nodepool_k8s.model import (
    Component,
    Node,
    NodeRequest,
    NodeState,
    RequestState,
    Resources,
)
from nodepool_k8s.policy import allocation, quota
from nodepool_k8s.policy.usage import usage
from nodepool_k8s.zookeeper.ledger import AtQuota
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Claim, Store

log = logging.getLogger(__name__)

MAKING_AT_ONCE = 32
"""Nodes of a pool whose objects are made at the same time. More of them only get in one
another's way at the API server, and each pod starts later: see ``tools/bench``."""

OnClaim = Callable[["PoolQueue", Claim], None]


@dataclass(slots=True)
class Capacity:
    """What all pools of a provider share: how many of their launches are under way."""

    provider: Provider
    launching: int = 0
    waiting: list[PoolQueue] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether ``max-concurrency`` launches are under way."""
        limit = self.provider.max_concurrency
        return limit is not None and self.launching >= limit

    def free(self, launches: int) -> None:
        """Launches have ended, one way or the other."""
        self.launching -= launches
        for queue in self.waiting:
            queue.wake()


class PoolQueue:
    """The requests that wait for one pool, in order, and their claims one at a time."""

    def __init__(
        self,
        pool: Pool,
        component: Component,
        capacity: Capacity,
        store: Store,
        mirror: Mirror,
        on_claim: OnClaim,
    ) -> None:
        self.pool = pool
        self.component = component
        self.capacity = capacity
        self.component_path = ""
        self.waits_for = ""
        """What the first request in the queue is waiting for; empty when nothing waits."""
        self._store = store
        self._mirror = mirror
        self._on_claim = on_claim
        self._usage: Mapping[str, Resources] = {
            name: usage(label) for name, label in pool.labels.items()
        }
        self._waiting: list[tuple[allocation.Order, str]] = []
        self._places: dict[str, allocation.Order] = {}
        self._declines: dict[str, str] = {}
        self.making = asyncio.Semaphore(MAKING_AT_ONCE)
        """Held while a node's objects are made, not while its pod starts."""
        self._refused_by_cluster = 0
        self._stopped = False
        self._yielded: set[str] = set()
        self._foreign_seen = Resources()
        capacity.waiting.append(self)
        self._wake = asyncio.Event()

    # --- what wakes it --------------------------------------------------------------------

    def offer(self, request_id: str) -> None:
        """Look at a request that came, changed, went, or was unlocked."""
        self._forget(request_id)
        request = self._mirror.requests.get(request_id)
        if request is None or self._mirror.request_locked(request_id):
            return
        match self._answer(request):
            case allocation.Take():
                self._enqueue(request)
            case allocation.Decline(reason):
                self._declines[request_id] = reason
                self.wake()
            case allocation.Yield(reason):
                self._yielded.add(request_id)
                log.debug("Pool %s yields request %s: %s", self.pool.key, request_id, reason)

    def _answer(self, request: NodeRequest) -> allocation.Answer:
        components = self._mirror.components.values()
        return allocation.answer(request, self.pool, self.component.id, components, self._usage)

    def components_changed(self) -> None:
        """Pools came, went or paused: look anew at what was left to others."""
        for request_id in list(self._yielded):
            self.offer(request_id)

    def wake(self) -> None:
        """There may be something to do: room in the quota, for instance."""
        self._wake.set()

    def foreign_changed(self) -> bool:
        """Whether nodes that are in no ledger came or went while this pool waits for room."""
        if not self.waits_for:
            return False
        foreign = self._mirror.usage(self.pool.provider, self.pool.name).foreign
        changed = foreign != self._foreign_seen
        self._foreign_seen = foreign
        return changed

    def refused_by_cluster(self, *, refused: bool) -> None:
        """A launch runs into a ResourceQuota of the cluster (or no longer does).

        While one does, the pool claims nothing more: it would only queue up there.
        """
        self._refused_by_cluster += 1 if refused else -1
        self.wake()

    def _enqueue(self, request: NodeRequest) -> None:
        place = allocation.order(request)
        self._places[request.id] = place
        bisect.insort(self._waiting, (place, request.id))
        self.wake()

    def _forget(self, request_id: str) -> None:
        self._declines.pop(request_id, None)
        self._yielded.discard(request_id)
        place = self._places.pop(request_id, None)
        if place is not None:
            entry = (place, request_id)
            self._waiting.pop(bisect.bisect_left(self._waiting, entry))

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
        while not self._stopped and not self._must_wait() and (request := self._first()):
            if not await self._try_to_claim(request):
                break
        if not self._waiting:
            self.waits_for = ""
        await self._show_paused(bool(self.waits_for))

    def _first(self) -> NodeRequest | None:
        """The request whose turn it is; who may have it can have changed while it waited."""
        while self._waiting:
            request_id = self._waiting[0][1]
            request = self._mirror.requests[request_id]
            if isinstance(self._answer(request), allocation.Take):
                return request
            self.offer(request_id)
        return None

    def _must_wait(self) -> bool:
        if not self._waiting:
            return False
        if self._refused_by_cluster:
            self.waits_for = "a ResourceQuota of the cluster"
        elif self.capacity.full:
            self.waits_for = f"max-concurrency: {self.capacity.launching} launches under way"
        else:
            return False
        return True

    async def _try_to_claim(self, request: NodeRequest) -> bool:
        """Claim the first request of the queue; False where the queue has to wait."""
        try:
            claim = await self._claim(request)
        except AtQuota:
            self.waits_for = quota.waits_for(self.pool.limits, self._used(), self._wanted(request))
            log.debug("Request %s waits for %s", request.id, self.waits_for)
            return False
        except SessionLost:
            raise
        except ConnectionLost:
            # Whether anything was made is unknown; upkeep removes drafts that nobody claims.
            self.wake()
            return False
        except Conflict:
            # It changed, went, or somebody holds it: the mirror is reading it, and offers it
            # again when it may be had.
            self._forget(request.id)
        else:
            self._forget(request.id)
            self.waits_for = ""
            self.capacity.launching += len(claim.nodes)
            self._on_claim(self, claim)
        return True

    async def _claim(self, request: NodeRequest) -> Claim:
        wanted = self._wanted(request)

        def fits(claimed: Resources) -> bool:
            foreign = self._mirror.usage(self.pool.provider, self.pool.name).foreign
            return quota.fits(self.pool.limits, claimed + foreign, wanted)

        await self._store.ledgers.require_room((self.pool.provider, self.pool.name), fits)
        now = time.time()
        drafts = await self._store.draft_nodes(
            [self._draft(self.pool.labels[name], request, now) for name in request.node_types]
        )
        pending = dataclasses.replace(request, state=RequestState.PENDING, state_time=now)
        nodes = [self._filled_in(draft) for draft in drafts]
        try:
            return await self._store.claim(
                pending, nodes, (self.pool.provider, self.pool.name), fits
            )
        except Conflict:
            await self._store.drop_drafts(drafts)
            raise

    def _draft(self, label: Label, request: NodeRequest, now: float) -> Node:
        draft = Node(
            id="",
            state=NodeState.INIT,
            state_time=now,
            created_time=now,
            type=(label.name,),
            provider=self.pool.provider,
            pool=self.pool.name,
            launcher=self.component.id,
            allocated_to=request.id,
            tenant_name=request.tenant_name,
            requestor=request.requestor,
        )
        return dataclasses.replace(
            draft, driver_data=wire.with_own_data(draft, type=label.type.value)
        )

    def _filled_in(self, draft: Node) -> Node:
        counted = self._usage[draft.type[0]]
        return dataclasses.replace(
            draft,
            state=NodeState.BUILDING,
            # Before the namespace exists: whoever finds the record finds the namespace.
            external_id=namespace_name(self.pool.name, draft.id, attempt=0),
            resources=counted,
            claimed=counted,
        )

    async def _decline(self, request_id: str, reason: str) -> None:
        request = self._mirror.requests.get(request_id)
        if request is None:
            return
        about(request=request.id, event_id=request.event_id)
        try:
            await self._store.rewrite_request(self.declined(request, reason))
        except SessionLost:
            raise
        except Conflict:
            self._mirror.reread(wire.request_path(request_id))
        else:
            log.info("Declined request %s of %s: %s", request.id, request.requestor, reason)

    def declined(self, request: NodeRequest, reason: str) -> NodeRequest:
        """The request as this pool leaves it when it cannot serve it."""
        state, declined_by = allocation.after_decline(
            request, self.component.id, self._mirror.components.values()
        )
        return dataclasses.replace(
            request,
            state=state,
            state_time=time.time(),
            declined_by=declined_by,
            extra=wire.with_reasons(request, (f"{self.pool.key}: {reason}",)),
        )

    async def _show_paused(self, paused: bool) -> None:
        """Let other launchers know, who yield to a pool of higher priority unless it pauses."""
        if paused == self.component.paused or not self.component_path:
            return
        self.component = dataclasses.replace(self.component, paused=paused)
        await self._store.update_component(self.component_path, self.component)

    def _wanted(self, request: NodeRequest) -> Resources:
        return sum((self._usage[name] for name in request.node_types), Resources())

    def _used(self) -> Resources:
        """What the claim was decided from: the ledger, which the records lag behind."""
        provider, pool = self.pool.provider, self.pool.name
        known = self._mirror.usage(provider, pool)
        ledger = self._mirror.ledgers.get(wire.ledger_path(provider, pool))
        return (ledger.claimed if ledger else known.claimed) + known.foreign
