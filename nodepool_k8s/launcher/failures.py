"""The last failures: attempts to launch a node, and requests that were declined.

Kept in memory, because the records they concern are soon removed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from nodepool_k8s.model import Node, NodeRequest
from nodepool_k8s.snapshot import RecentFailure
from nodepool_k8s.znodes.requests import refusal_reasons
from nodepool_k8s.zookeeper.mirror import Kind, Mirror

REMEMBERED = 50
"""How many failures are remembered."""


class FailureHistory:
    """Remembers why requests and launches failed, over sessions; a ``FailureObserver``."""

    def __init__(self) -> None:
        self._failures: deque[RecentFailure] = deque(maxlen=REMEMBERED)
        self._mirror: Mirror | None = None
        self._reasons: dict[str, int] = {}
        """How many reasons of a request's refusal were remembered already, by its id."""

    def __iter__(self) -> Iterator[RecentFailure]:
        """The newest first."""
        return reversed(self._failures)

    def follow(self, mirror: Mirror) -> None:
        """Remember the refusals that this session's records contain and will contain."""
        self._mirror = mirror
        self._reasons.clear()
        mirror.listen(self._on_change)
        for request_id in mirror.requests:
            self._on_change(Kind.REQUEST, request_id)

    def attempt_failed(self, request: NodeRequest, node: Node, reason: str) -> None:
        """Remember that an attempt to launch a node failed."""
        self._remember(request, node.type, node.id, reason)

    def _on_change(self, kind: Kind, name: str) -> None:
        if kind is not Kind.REQUEST or self._mirror is None:
            return
        request = self._mirror.requests.get(name)
        if request is None:
            self._reasons.pop(name, None)
            return
        reasons = refusal_reasons(request)
        known = self._reasons.get(name, 0)
        if len(reasons) > known:
            self._reasons[name] = len(reasons)
        for reason in reasons[known:]:
            self._remember(request, request.node_types, None, reason)

    def _remember(
        self, request: NodeRequest, labels: tuple[str, ...], node_id: str | None, reason: str
    ) -> None:
        self._failures.append(RecentFailure(time.time(), request.id, node_id, labels, reason))
