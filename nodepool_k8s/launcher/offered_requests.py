"""What one pool makes of each request: queued, left to another pool, or declined."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping

from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.model import NodeRequest, Resources
from nodepool_k8s.policy import allocation
from nodepool_k8s.policy.next_action import DeclineRequest
from nodepool_k8s.policy.request_queue import FairShare, RequestQueue
from nodepool_k8s.znodes.paths import ledger_path
from nodepool_k8s.zookeeper.mirror import Mirror

log = logging.getLogger(__name__)


class OfferedRequests:
    """The requests of one pool, under one configuration of it, by ``policy.allocation``.

    ``usage`` says what one node of each of the pool's labels counts. Requests of tenants in
    ``limited_tenants`` are parked together when their tenant is at its limit.
    """

    def __init__(
        self,
        context: LaunchContext,
        usage: Mapping[str, Resources],
        limited_tenants: Container[str],
        mirror: Mirror,
    ) -> None:
        pool = context.pool
        ledger = ledger_path(pool.provider, pool.name)
        fair_share = FairShare(pool.limits, lambda tenant: mirror.held(ledger, tenant))
        self.queue = RequestQueue(fair_share if pool.fair_share else None)
        self._context = context
        self._usage = usage
        self._limited_tenants = limited_tenants
        self._mirror = mirror
        self._declines: dict[str, DeclineRequest] = {}
        self._yielded: set[str] = set()

    def offer(self, request: NodeRequest) -> bool:
        """Put a request where it belongs; whether there is something to do now."""
        self.forget(request.id)
        match self._answer(request):
            case allocation.Take(wanted):
                self._enqueue(request, wanted)
                return True
            case allocation.Decline(reason):
                self._declines[request.id] = DeclineRequest(request, reason)
                return True
            case allocation.Yield(reason):
                self._yielded.add(request.id)
                pool = self._context.pool
                log.debug("Pool %s yields request %s: %s", pool.key, request.id, reason)
        return False

    def _answer(self, request: NodeRequest) -> allocation.Answer:
        return allocation.answer(
            request,
            self._context.pool,
            self._context.component_id,
            self._mirror.components.values(),
            self._usage,
        )

    def _enqueue(self, request: NodeRequest, wanted: Resources) -> None:
        tenant, group = request.tenant_name, None
        if tenant is not None and tenant in self._limited_tenants:
            group = (tenant, wanted)
        self.queue.add(request.id, allocation.order(request), group, tenant, wanted)

    def forget(self, request_id: str) -> None:
        """The request went, is claimed, or is about to be offered again."""
        self._declines.pop(request_id, None)
        self._yielded.discard(request_id)
        self.queue.discard(request_id)

    @property
    def yielded(self) -> frozenset[str]:
        """Ids of the requests that are left to other pools."""
        return frozenset(self._yielded)

    @property
    def decline(self) -> DeclineRequest | None:
        """The first of the requests that are to be declined."""
        return next(iter(self._declines.values()), None)

    def head(self) -> NodeRequest | None:
        """The request whose turn it is, if the pool still takes it.

        Other pools may have come or paused since it was queued. That is asked here, of one
        request at a time: asking of the whole queue whenever a pool changes costs too much.
        """
        while (request_id := self.queue.first()) is not None:
            request = self._mirror.requests[request_id]
            if isinstance(self._answer(request), allocation.Take):
                return request
            self.offer(request)
        return None
