"""The order of the requests that wait for one pool. Pure.

A request whose tenant is at its limit is parked, and those behind it are served; no other
request is overtaken. The order is Nodepool's; with fair share, requests of one priority are
served in the order of what their tenants hold.
"""

from __future__ import annotations

import bisect
import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from nodepool_k8s.model import INSTANCES, MILLI, Resources
from nodepool_k8s.policy.allocation import Order

Group: TypeAlias = tuple[str, Resources] | None
"""Requests of one limited tenant that need the same: where one does not fit, none does.
None for requests of tenants without limits."""

NO_TENANT = ""
"""With fair share, requests without a tenant count as this tenant's."""


@dataclass(frozen=True, slots=True)
class FairShare:
    """The order of a pool's tenants: the one that holds the smallest share of it is first.

    ``limits`` are the pool's, in thousandths; ``held`` says what a tenant holds in it.
    """

    limits: Mapping[str, int]
    held: Callable[[str], Resources]

    def share(self, tenant: str, more: Resources | None = None) -> float:
        """The largest part that the tenant holds of any limit, or would with ``more``.

        In a pool without limits, the number of its nodes.
        """
        held = self.held(tenant) if more is None else self.held(tenant) + more
        parts = [held.amount(name) / limit for name, limit in self.limits.items() if limit > 0]
        return max(parts, default=held.amount(INSTANCES) / MILLI)


class Rank(NamedTuple):
    """The sort key of the queue: the lowest is served first."""

    priority: str
    waited: bool
    """False for the request that the pool waits for already."""
    share: float
    order: Order
    request_id: str


class _Place(NamedTuple):
    order: Order
    queue: tuple[str | None, Group]
    """Its tenant (None without fair share), and the group that it is parked with."""
    needs: Resources


class RequestQueue:
    """Requests by id, in order, in groups that are parked together."""

    def __init__(self, fair_share: FairShare | None = None) -> None:
        self._fair_share = fair_share
        self._queues: dict[tuple[str | None, Group], list[tuple[Order, str]]] = {}
        self._places: dict[str, _Place] = {}
        self._parked: set[Group] = set()
        self._pinned: dict[str, str] = {}
        """By priority: the request that the pool waited for last, queued still or not."""

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._places

    def in_order(self) -> list[str]:
        """All requests in the order in which they are served, parked ones included.

        With fair share, that is the order if nothing else changes.
        """
        queue = sorted((place.order, request_id) for request_id, place in self._places.items())
        if self._fair_share is None:
            return [request_id for _, request_id in queue]
        waiting: defaultdict[str, deque[tuple[Order, str]]] = defaultdict(deque)
        for order, request_id in queue:
            waiting[self._places[request_id].queue[0] or NO_TENANT].append((order, request_id))
        return self._by_fair_share(self._fair_share, waiting)

    def _by_fair_share(
        self, fair_share: FairShare, waiting: Mapping[str, deque[tuple[Order, str]]]
    ) -> list[str]:
        served: list[str] = []
        taken = dict.fromkeys(waiting, Resources())

        def head(tenant: str) -> tuple[Rank, str]:
            return self._rank(*waiting[tenant][0], fair_share.share(tenant, taken[tenant])), tenant

        heads = [head(tenant) for tenant in waiting]
        heapq.heapify(heads)
        while heads:
            rank, tenant = heapq.heappop(heads)
            served.append(rank.request_id)
            waiting[tenant].popleft()
            taken[tenant] += self._places[rank.request_id].needs
            if waiting[tenant]:
                heapq.heappush(heads, head(tenant))
        return served

    def add(
        self,
        request_id: str,
        order: Order,
        group: Group,
        tenant: str | None = None,
        needs: Resources | None = None,
    ) -> None:
        """Add a request, or move it if it is queued already."""
        self.discard(request_id)
        turn = None if self._fair_share is None else tenant or NO_TENANT
        self._places[request_id] = _Place(order, (turn, group), needs or Resources())
        bisect.insort(self._queues.setdefault((turn, group), []), (order, request_id))

    def discard(self, request_id: str) -> None:
        """Remove a request, if it is queued."""
        place = self._places.pop(request_id, None)
        if place is None:
            return
        entries = self._queues[place.queue]
        entries.pop(bisect.bisect_left(entries, (place.order, request_id)))
        if not entries:
            # A parked group has one tenant, so this was its last request.
            del self._queues[place.queue]
            self._parked.discard(place.queue[1])

    def first(self) -> str | None:
        """The request to serve next; None if the queue is empty or all are parked."""
        heads: dict[str | None, tuple[Order, str]] = {}
        for (turn, group), entries in self._queues.items():
            if group not in self._parked:
                heads[turn] = min(heads.get(turn, entries[0]), entries[0])
        if self._fair_share is None or not heads:
            return heads[None][1] if heads else None
        urgent = min(order[0] for order, _ in heads.values())
        return min(
            self._rank(order, request_id, self._fair_share.share(turn or NO_TENANT))
            for turn, (order, request_id) in heads.items()
            if order[0] == urgent
        ).request_id

    def _rank(self, order: Order, request_id: str, share: float) -> Rank:
        kept = self._pinned.get(order[0]) == request_id
        return Rank(order[0], not kept, share, order, request_id)

    def pin(self, request_id: str) -> None:
        """Serve this one before all others of its priority, while it is its tenant's first.

        For the request that the pool waits for. Otherwise smaller requests would take, again
        and again, the room that is freed for it.
        """
        self._pinned[self._places[request_id].order[0]] = request_id

    def park(self, request_id: str) -> None:
        """Skip a request, and all of its group, until their tenant is unparked."""
        group = self._places[request_id].queue[1]
        if group is not None:
            self._parked.add(group)

    def is_parked(self, request_id: str) -> bool:
        """Whether a request is parked."""
        return request_id in self._places and self._places[request_id].queue[1] in self._parked

    @property
    def parked_tenants(self) -> frozenset[str]:
        """Tenants with parked requests."""
        return frozenset(group[0] for group in self._parked if group is not None)

    def unpark(self, tenant: str) -> bool:
        """Serve a tenant's parked requests again; whether it had any."""
        back = {group for group in self._parked if group is not None and group[0] == tenant}
        self._parked -= back
        return bool(back)
