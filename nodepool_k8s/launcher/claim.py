"""How one pool claims a request: what that needs, whether it fits, and the transaction.

One transaction takes the request, the ready nodes that are handed out, and room in the
ledgers for the nodes that are launched.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence

from nodepool_k8s.errors import Conflict
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.model import EMPTY, Node, NodeRequest, NodeState, RequestState, Resources
from nodepool_k8s.policy import quota
from nodepool_k8s.policy.lifecycle import move_node, move_request
from nodepool_k8s.policy.next_action import Quota
from nodepool_k8s.policy.usage import usage
from nodepool_k8s.znodes.nodes import with_driver_data
from nodepool_k8s.znodes.paths import ledger_path, tenant_ledger_path
from nodepool_k8s.zookeeper.ledger import Fits, LedgerChange
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Claim, Store

TenantLimits = Mapping[str, Mapping[str, int]]
"""By tenant: limits in thousandths by resource name."""


class Claims:
    """The claims of one pool, under one configuration of it.

    A claim finishes under the configuration that it started with, even if that changes.
    """

    def __init__(
        self,
        context: LaunchContext,
        tenant_limits: TenantLimits,
        store: Store,
        mirror: Mirror,
    ) -> None:
        pool = context.pool
        self.context = context
        self.ledger = ledger_path(pool.provider, pool.name)
        self.tenant_limits = tenant_limits
        self.usage: Mapping[str, Resources] = {
            name: usage(label) for name, label in pool.labels.items()
        }
        """What one node of each of the pool's labels counts."""
        self._pool = pool
        self._store = store
        self._mirror = mirror

    def wanted(self, labels: Iterable[str]) -> Resources:
        """What nodes of those labels count together."""
        return sum((self.usage[name] for name in labels), Resources())

    def used(self, path: str | None = None) -> Resources:
        """What counts as used of a ledger (the pool's): nodes' records are behind the ledger."""
        return self._mirror.used(path or self.ledger)

    def pool_quota(self, labels: Iterable[str]) -> Quota:
        """What new nodes of those labels need of the pool's ledger, and what it has."""
        return Quota(self._pool.limits, self.used(), self.wanted(labels))

    def tenant_quota(self, request: NodeRequest, tenant: str) -> Quota:
        """What the request needs of its tenant's ledger, and what that has."""
        limits = self.tenant_limits.get(tenant, EMPTY)
        return Quota(limits, self.used(tenant_ledger_path(tenant)), self.wanted(request.node_types))

    async def claim(self, request: NodeRequest, ready: Sequence[Node | None]) -> Claim:
        """Claim the request: for each of its labels that ready node, or a new one for None.

        Raises AtQuota, NodeTaken, ConnectionLost, and Conflict if the request cannot be
        claimed.
        """
        entries = self._entries(request, ready)
        await self._store.ledgers.require_room(entries)
        now = time.time()
        whole = {
            node.id: node
            for node in await self._store.read_nodes([node.id for node in ready if node])
        }
        drafts = await self._store.draft_nodes(
            [self._draft(name, request, now) for name in labels_to_launch(request, ready)]
        )
        new = iter(drafts)
        nodes = [
            self._taken_over(whole[node.id], request) if node else self._filled_in(next(new), now)
            for node in ready
        ]
        pending = move_request(request, RequestState.PENDING, now)
        try:
            return await self._store.claim(pending, nodes, entries)
        except Conflict:
            await self._store.drop_drafts(drafts)
            raise

    def _entries(self, request: NodeRequest, ready: Sequence[Node | None]) -> list[LedgerChange]:
        """The change of each ledger; the pool's counts ready nodes already."""
        entries = []
        new = labels_to_launch(request, ready)
        if new:
            fits = self._fits(self.ledger, self._pool.limits, self.wanted(new))
            entries.append(LedgerChange(self.ledger, self.wanted(new), fits))
        tenant = self.counted_for(request)
        if tenant is not None:
            path, wanted = tenant_ledger_path(tenant), self.wanted(new)
            wanted += sum((node.claimed for node in ready if node and node.claimed), Resources())
            fits = self._fits(path, self.tenant_limits[tenant], wanted)
            entries.append(LedgerChange(path, wanted, fits))
        return entries

    def _fits(self, path: str, limits: Mapping[str, int], wanted: Resources) -> Fits:
        def fits(claimed: Resources) -> bool:
            return quota.fits(limits, claimed + self._mirror.usage(path).foreign, wanted)

        return fits

    def counted_for(self, request: NodeRequest) -> str | None:
        """The tenant whose ledger counts the request's nodes, if it has limits."""
        return request.tenant_name if request.tenant_name in self.tenant_limits else None

    def _draft(self, label: str, request: NodeRequest, now: float) -> Node:
        draft = Node(
            id="",
            state=NodeState.INIT,
            state_time=now,
            created_time=now,
            type=(label,),
            provider=self._pool.provider,
            pool=self._pool.name,
            launcher=self.context.component_id,
            allocated_to=request.id,
            tenant_name=request.tenant_name,
            requestor=request.requestor,
            counted_for=self.counted_for(request),
        )
        driver = self.context.driver
        data = driver.driver_data(self._pool.labels[label])
        data["context"], data["cluster"] = self.context.provider.context, driver.identity
        return dataclasses.replace(draft, driver_data=with_driver_data(draft, data))

    def _filled_in(self, draft: Node, now: float) -> Node:
        counted = self.usage[draft.type[0]]
        return move_node(
            draft,
            NodeState.BUILDING,
            now,
            # Recorded before anything is created, so that a launcher that finds the record
            # finds the objects.
            external_id=self.context.driver.external_id(self._pool, draft.id, attempt=0),
            resources=counted,
            claimed=counted,
        )

    def _taken_over(self, node: Node, request: NodeRequest) -> Node:
        return dataclasses.replace(
            node,
            allocated_to=request.id,
            tenant_name=request.tenant_name,
            requestor=request.requestor,
            counted_for=self.counted_for(request),
        )


def labels_to_launch(request: NodeRequest, ready: Sequence[Node | None]) -> list[str]:
    """The labels of the nodes to launch: those without a ready node."""
    return [label for label, node in zip(request.node_types, ready, strict=True) if node is None]
