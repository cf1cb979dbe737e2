"""A claimed request until its end: fulfilled, declined, or given back."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from nodepool_k8s import telemetry
from nodepool_k8s.aio import gather_all
from nodepool_k8s.config.settings import Pool
from nodepool_k8s.errors import Conflict, LaunchError, Outdated, Vanished
from nodepool_k8s.launcher.delete import Deleter
from nodepool_k8s.launcher.launch import Launch
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.launcher.launch_slots import CreateSlots, LaunchSlots
from nodepool_k8s.launcher.reuse import Reuse
from nodepool_k8s.logs import bind_log_context
from nodepool_k8s.model import NodeRequest, NodeState, RequestState
from nodepool_k8s.policy import allocation
from nodepool_k8s.policy.lifecycle import move_request
from nodepool_k8s.znodes.requests import is_own_spare
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Claim

log = logging.getLogger(__name__)


class Fulfilment:
    """One request that this launcher has claimed."""

    def __init__(
        self,
        claim: Claim,
        context: LaunchContext,
        launch_slots: LaunchSlots,
        create_slots: CreateSlots,
        mirror: Mirror,
        deleter: Deleter,
    ) -> None:
        self._context = context
        self._claim = claim
        self._launch_slots = launch_slots
        self._create_slots = create_slots
        self._store = context.store
        self._mirror = mirror
        self._deleter = deleter
        self._launches = [self._way_of(context, held) for held in claim.nodes]
        self._unfinished = 0
        self._abandoned: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def _way_of(self, context: LaunchContext, held: HeldNode) -> Launch | Reuse:
        if held.node.state is NodeState.READY:
            label = context.pool.labels[held.node.type[0]]
            return Reuse(context, label, held, self._claim.request)
        return Launch(context, self._create_slots, held, self._claim.request)

    @property
    def request(self) -> NodeRequest:
        """The request, as it was claimed."""
        return self._claim.request

    @property
    def pool(self) -> Pool:
        """The pool that serves it."""
        return self._context.pool

    @property
    def launches(self) -> list[Launch | Reuse]:
        """What gets its nodes ready, in the order of the request."""
        return self._launches

    def abandon(self, reason: str) -> None:
        """Stop launching: the request is gone, or the launcher stops."""
        if not self._abandoned.done():
            self._abandoned.set_result(reason)

    async def run(self) -> None:
        """Carry the request to its end: fulfilled, declined, or given back."""
        request = self._claim.request
        bind_log_context(request=request.id, event_id=request.event_id)
        log.info(
            "Assigned request %s of %s to pool %s: %s",
            request.id,
            request.requestor,
            self.pool.key,
            ", ".join(request.node_types),
        )
        telemetry.request_claimed(request, self.pool)
        work = asyncio.ensure_future(self._launch_all())
        try:
            waits: set[asyncio.Future[Any]] = {work, self._abandoned}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():
                work.cancel()
            await asyncio.wait({work})
            self._launch_slots.free(sum(launch.launched for launch in self._launches))
        await self._end(work)

    async def _end(self, work: asyncio.Task[None]) -> None:
        error = None if work.cancelled() else work.exception()
        if work.cancelled():
            await self._give_back(self._abandoned.result())
        elif isinstance(error, LaunchError):
            await self._decline(str(error))
        elif isinstance(error, Conflict):
            # Another process changed or removed the record of one of the nodes.
            await self._give_back(str(error))
        elif error is not None:
            raise error
        else:
            await self._hand_over()

    # --- launching ------------------------------------------------------------------------

    async def _launch_all(self) -> None:
        """Launch all nodes concurrently; the first permanent failure ends the others.

        A node that is lost while others of the request are launched is launched again.
        """
        launches = self._launches
        while launches:
            self._unfinished = len(launches)
            await self._launch_each(launches)
            launches = [launch for launch in self._launches if not launch.is_ready()]

    async def _launch_each(self, launches: list[Launch | Reuse]) -> None:
        await gather_all([self._launch_one(launch) for launch in launches])

    async def _launch_one(self, launch: Launch | Reuse) -> None:
        await launch.run()
        self._unfinished -= 1
        # The hand-over writes the last one itself, which saves a round trip.
        if self._unfinished:
            await launch.write()

    # --- the three ends -------------------------------------------------------------------------

    async def _hand_over(self) -> None:
        nodes = [launch.held for launch in self._launches]
        if is_own_spare(self._claim.request):
            # Any request may have the node. A Nodepool launcher frees the spare nodes that it
            # requested itself, with a write that respects neither lock nor version.
            written, unwritten = [], [held.evolve(allocated_to=None) for held in nodes]
        else:
            unwritten = [launch.held for launch in self._launches if not launch.written]
            written = [launch.held for launch in self._launches if launch.written]
        request = move_request(
            self._claim.request,
            RequestState.FULFILLED,
            time.time(),
            nodes=tuple(held.node.id for held in nodes),
        )
        try:
            await self._store.hand_over(
                self._claim, request, [*written, *unwritten], len(unwritten)
            )
        except Vanished:
            await self._release("the request is gone")
        except Outdated as error:
            await self._give_back(str(error))
        else:
            log.info("Fulfilled request %s with %s", request.id, ", ".join(request.nodes))
            launched = [launch.launched for launch in self._launches]
            telemetry.nodes_assigned(request, self.pool, launched)
            telemetry.request_ended(request, self.pool)

    async def _decline(self, reason: str) -> None:
        log.warning("Declined request %s: %s", self._claim.request.id, reason)
        declined = allocation.declined(
            self._claim.request,
            self._context.component_id,
            self.pool.key,
            reason,
            self._mirror.components.values(),
            time.time(),
        )
        await self._leave(declined, reason)

    async def _give_back(self, reason: str) -> None:
        log.info("Gave request %s back: %s", self._claim.request.id, reason)
        requested = move_request(self._claim.request, RequestState.REQUESTED, time.time())
        await self._leave(requested, reason)

    async def _leave(self, request: NodeRequest, reason: str) -> None:
        await self._let_go(reason)
        try:
            await self._store.give_back(self._claim, request)
        except Vanished:
            await self._store.abandon_request(self._claim)
        telemetry.request_ended(request, self.pool, reason)

    async def _release(self, reason: str) -> None:
        await self._let_go(reason)
        await self._store.abandon_request(self._claim)
        telemetry.request_gone(reason)

    async def _let_go(self, reason: str) -> None:
        """Free the nodes that are ready, for the next request, and delete the others."""
        for launch in self._launches:
            if launch.failure or not launch.is_ready():
                self._deleter.delete(launch.held, launch.failure or reason)
                continue
            try:
                await self._store.free_held(launch.held)
            except Outdated:
                self._deleter.delete(launch.held, reason)
            else:
                log.info("Node %s is free: %s", launch.held.node.id, reason)
