"""The line of requests that wait for one pool: whose turn it is. Pure.

A request whose tenant is at its limit steps aside, and those behind it go on; every
other request waits its turn, and nobody overtakes it.
"""

from __future__ import annotations

import bisect
from typing import TypeAlias

from nodepool_k8s.model import Resources
from nodepool_k8s.policy.allocation import Order

Group: TypeAlias = tuple[str, Resources] | None
"""Requests of one limited tenant that need the same: where one does not fit, none does.
None for the requests of all tenants without limits."""


class Line:
    """Requests by their ids, in order, in groups that step aside together."""

    def __init__(self) -> None:
        self._groups: dict[Group, list[tuple[Order, str]]] = {}
        self._places: dict[str, tuple[Order, Group]] = {}
        self._aside: set[Group] = set()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._places

    def in_order(self) -> list[str]:
        """Every request, those that stand aside too, in the order of their places."""
        return sorted(self._places, key=lambda request_id: self._places[request_id][0])

    def add(self, request_id: str, place: Order, group: Group) -> None:
        """Put a request into its place; one that is in the line already is moved."""
        self.discard(request_id)
        self._places[request_id] = place, group
        bisect.insort(self._groups.setdefault(group, []), (place, request_id))

    def discard(self, request_id: str) -> None:
        """Take a request out, if it is in."""
        place, group = self._places.pop(request_id, (None, None))
        if place is None:
            return
        entries = self._groups[group]
        entries.pop(bisect.bisect_left(entries, (place, request_id)))
        if not entries:
            del self._groups[group]
            self._aside.discard(group)

    def first(self) -> str | None:
        """Whose turn it is; None where nobody waits, or all stand aside."""
        heads = (entries[0] for group, entries in self._groups.items() if group not in self._aside)
        return min(heads, default=(None, None))[1]

    def step_aside(self, request_id: str) -> None:
        """Pass over a request, and all that need the same, until their tenant is recalled."""
        _, group = self._places[request_id]
        if group is not None:
            self._aside.add(group)

    def is_aside(self, request_id: str) -> bool:
        """Whether a request stands aside."""
        return request_id in self._places and self._places[request_id][1] in self._aside

    @property
    def tenants_aside(self) -> frozenset[str]:
        """Tenants with requests that stand aside."""
        return frozenset(group[0] for group in self._aside if group is not None)

    def recall(self, tenant: str) -> bool:
        """Let a tenant's requests take their places again; whether any stood aside."""
        back = {group for group in self._aside if group is not None and group[0] == tenant}
        self._aside -= back
        return bool(back)
