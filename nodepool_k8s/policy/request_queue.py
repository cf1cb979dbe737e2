"""The line of requests that wait for one pool: whose turn it is. Pure.

A request whose tenant is at its limit steps aside, and those behind it go on; every
other request waits its turn, and nobody overtakes it. Whose turn it is says Nodepool's
order, or, where tenants take turns, within a priority the share of what they hold.
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
None for the requests of all tenants without limits."""

NO_TENANT = ""
"""All tenants without a name take turns as this one."""


@dataclass(frozen=True, slots=True)
class FairShare:
    """How the tenants of a pool take turns: who holds the smallest share of it goes first.

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
    """What decides whose turn it is: the lowest goes first."""

    priority: str
    waited: bool
    """False for the one that the pool waits for already."""
    share: float
    order: Order
    request_id: str


class _Place(NamedTuple):
    order: Order
    queue: tuple[str | None, Group]
    """Whose turn it takes (None where nobody takes turns), and with whom it steps aside."""
    needs: Resources


class RequestQueue:
    """Requests by their ids, in order, in groups that step aside together."""

    def __init__(self, fair_share: FairShare | None = None) -> None:
        self._fair_share = fair_share
        self._queues: dict[tuple[str | None, Group], list[tuple[Order, str]]] = {}
        self._places: dict[str, _Place] = {}
        self._parked: set[Group] = set()
        self._pinned: dict[str, str] = {}
        """By priority: the request that was waited for last, in the line still or not."""

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._places

    def in_order(self) -> list[str]:
        """Every request, those that stand aside too, in the order of their turns.

        Where tenants take turns it is what comes if nothing else changes.
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
        """Put a request into its place; one that is in the line already is moved."""
        self.discard(request_id)
        turn = None if self._fair_share is None else tenant or NO_TENANT
        self._places[request_id] = _Place(order, (turn, group), needs or Resources())
        bisect.insort(self._queues.setdefault((turn, group), []), (order, request_id))

    def discard(self, request_id: str) -> None:
        """Take a request out, if it is in."""
        place = self._places.pop(request_id, None)
        if place is None:
            return
        entries = self._queues[place.queue]
        entries.pop(bisect.bisect_left(entries, (place.order, request_id)))
        if not entries:
            # A group that stands aside is of one tenant, so that was all of it.
            del self._queues[place.queue]
            self._parked.discard(place.queue[1])

    def first(self) -> str | None:
        """Whose turn it is; None where nobody waits, or all stand aside."""
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
        """Nobody of its priority goes before this one, while it is its tenant's first.

        For one that the pool waits for: else whoever needs less would take, again and
        again, the room that comes free for it.
        """
        self._pinned[self._places[request_id].order[0]] = request_id

    def park(self, request_id: str) -> None:
        """Pass over a request, and all that need the same, until their tenant is recalled."""
        group = self._places[request_id].queue[1]
        if group is not None:
            self._parked.add(group)

    def is_parked(self, request_id: str) -> bool:
        """Whether a request stands aside."""
        return request_id in self._places and self._places[request_id].queue[1] in self._parked

    @property
    def parked_tenants(self) -> frozenset[str]:
        """Tenants with requests that stand aside."""
        return frozenset(group[0] for group in self._parked if group is not None)

    def unpark(self, tenant: str) -> bool:
        """Let a tenant's requests take their places again; whether any stood aside."""
        back = {group for group in self._parked if group is not None and group[0] == tenant}
        self._parked -= back
        return bool(back)
