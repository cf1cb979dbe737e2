"""Everything that lives as long as one ZooKeeper session, wired together.

Hears each change of the mirror and passes it to whom it concerns: a request to the
pools' queues and to who is fulfilling it, a node to the deleter, a ledger to its pool.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping

from nodepool_k8s.config.settings import Pool, Settings
from nodepool_k8s.errors import NotHeld
from nodepool_k8s.launcher import reuse
from nodepool_k8s.launcher.clusters import Clusters
from nodepool_k8s.launcher.delete import Deleter
from nodepool_k8s.launcher.fulfil import Fulfilment
from nodepool_k8s.launcher.launch import LaunchSite
from nodepool_k8s.launcher.min_ready import MinReady
from nodepool_k8s.launcher.requests import Capacity, Hooks, PoolQueue
from nodepool_k8s.launcher.tasks import OnCrash, Tasks
from nodepool_k8s.launcher.upkeep import Upkeep
from nodepool_k8s.manifests import node_id_in
from nodepool_k8s.model import Component, Node, RequestState
from nodepool_k8s.zookeeper.mirror import Kind, Mirror
from nodepool_k8s.zookeeper.store import Claim, Store

log = logging.getLogger(__name__)


class SessionScope:
    """The queues, fulfilments, deletions and upkeep of one session."""

    def __init__(
        self, settings: Settings, identity: str, store: Store, mirror: Mirror, on_crash: OnCrash
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._store = store
        self._mirror = mirror
        self._serving = Tasks(on_crash)
        """Upkeep, and waiting for clusters."""
        self._taking = Tasks(on_crash)
        """The pools' queues, which take work on; ended first when the launcher stops."""
        self._work = Tasks(on_crash)
        """Requests being fulfilled, nodes being deleted."""
        self._queues: dict[str, PoolQueue] = {}
        self._fulfilments: dict[str, Fulfilment] = {}
        self._sites: dict[str, LaunchSite] = {}
        self._deleter: Deleter
        self._min_ready: MinReady
        self._upkeep: Upkeep

    @property
    def queues(self) -> Mapping[str, PoolQueue]:
        """The pools' queues, by the id under which each pool is registered."""
        return self._queues

    @property
    def fulfilments(self) -> Mapping[str, Fulfilment]:
        """The requests that are being served, by id."""
        return self._fulfilments

    async def start(self, clusters: Clusters) -> None:
        """Register the pools and begin to serve; each provider when its cluster is there."""
        self._deleter = Deleter(self._settings, clusters, self._store, self._mirror, self._work)
        for provider in self._settings.providers:
            cluster = clusters[provider.name]
            self._sites[provider.name] = LaunchSite(provider, cluster, self._store)
            capacity = Capacity(provider)
            queues = [self._queue(pool, capacity) for pool in provider.pools]
            for queue in queues:
                self._queues[queue.component.id] = queue
                queue.component_path = await self._store.register(queue.component)
            self._serving.spawn(
                f"serve provider {provider.name}",
                self._serve_provider(provider.name, clusters, queues),
            )
        self._upkeep = Upkeep(self._settings, self._store, self._mirror)
        self._serving.spawn("upkeep", self._upkeep.run())
        self._min_ready = MinReady(self._settings, self._store, self._mirror)
        self._serving.spawn("ask for spare nodes", self._min_ready.run())
        clusters.on_lost = self._on_lost
        self._mirror.listen(self._on_change)
        for request_id in list(self._mirror.requests):
            self._offer(request_id)
        for node_id in list(self._mirror.nodes):
            self._deleter.consider(node_id)

    def _queue(self, pool: Pool, capacity: Capacity) -> PoolQueue:
        component = Component(
            id=f"{socket.getfqdn()}-{pool.provider}-{pool.name}-{self._identity}",
            provider_name=pool.provider,
            supported_labels=frozenset(pool.labels),
            priority=pool.priority,
            pool=pool.name,
        )
        hooks = Hooks(self._on_claim, self._is_usable, self._deleter.remove_spare)
        limits = self._settings.tenant_limits
        return PoolQueue(pool, component, capacity, self._store, self._mirror, hooks, limits)

    def _is_usable(self, pool: Pool, node: Node) -> bool:
        launch = pool.labels[node.type[0]].launch
        return reuse.is_usable(self._sites[pool.provider].cluster, node, launch)

    async def _serve_provider(self, name: str, clusters: Clusters, queues: list[PoolQueue]) -> None:
        cluster = await clusters.ready(name)
        self._serving.spawn(f"upkeep of provider {name}", self._upkeep.run_for(cluster))
        # Only now it shows which of the ready ones were lost while nobody looked.
        for node in list(self._mirror.nodes.values()):
            if node.provider == name and node.unused:
                self._deleter.consider(node.id)
        for queue in queues:
            self._taking.spawn(f"serve pool {queue.pool.key}", queue.run())

    # --- what happens in ZooKeeper -----------------------------------------------------------

    def _on_change(self, kind: Kind, name: str) -> None:
        match kind:
            case Kind.REQUEST | Kind.REQUEST_LOCK:
                self._on_request(name)
            case Kind.NODE | Kind.NODE_LOCK:
                self._on_node(name)
            case Kind.LEDGER:
                for queue in self._queues.values():
                    queue.ledger_changed(name)
            case Kind.MIN_READY:
                self._min_ready.owner_changed(name)
            case Kind.COMPONENT:
                for queue in self._queues.values():
                    queue.components_changed()

    def _on_node(self, node_id: str) -> None:
        self._deleter.consider(node_id)
        for queue in self._queues.values():
            queue.nodes_changed()
        self._min_ready.nodes_changed()

    def _on_lost(self, namespace: str) -> None:
        """A pod ended, or a namespace went: if that was a ready node, it is none any more."""
        node = self._mirror.nodes.get(node_id_in(namespace) or "")
        if node is not None and node.external_id == namespace:
            self._deleter.consider(node.id)

    def _on_request(self, request_id: str) -> None:
        self._min_ready.request_changed(request_id)
        request = self._mirror.requests.get(request_id)
        fulfilment = self._fulfilments.get(request_id)
        if fulfilment is not None:
            if request is None:
                fulfilment.abandon("the request is gone")
            return
        if request is None:
            self._on_request_gone(request_id)
        elif request.state is RequestState.PENDING and not self._mirror.request_locked(request_id):
            self._work.spawn(f"reset {request_id}", self._upkeep.reset_request(request))
        self._offer(request_id)

    def _on_request_gone(self, request_id: str) -> None:
        self._deleter.consider_nodes_of(request_id)
        if not self._mirror.request_locked(request_id):
            self._work.spawn(
                f"drop the lock of {request_id}", self._store.drop_request_lock(request_id)
            )

    def _offer(self, request_id: str) -> None:
        for queue in self._queues.values():
            queue.offer(request_id)

    # --- claims ---------------------------------------------------------------------------

    def _on_claim(self, queue: PoolQueue, claim: Claim) -> None:
        site = self._sites[queue.pool.provider]
        fulfilment = Fulfilment(queue, claim, site, self._store, self._deleter.delete)
        self._fulfilments[claim.request.id] = fulfilment
        self._work.spawn(f"fulfil {claim.request.id}", self._fulfil(claim.request.id, fulfilment))
        if claim.request.id not in self._mirror.requests:
            fulfilment.abandon("the request is gone")

    async def _fulfil(self, request_id: str, fulfilment: Fulfilment) -> None:
        try:
            await fulfilment.run()
        except NotHeld as error:
            log.warning("Left request %s alone: %s", request_id, error)
        finally:
            del self._fulfilments[request_id]
        # What happened to it meanwhile was not looked at.
        self._on_request(request_id)

    # --- stopping --------------------------------------------------------------------------

    async def drain(self, timeout: float) -> None:
        """Take no more requests, give back those in flight, and let deletions finish."""
        for queue in self._queues.values():
            queue.stop()
        await self._taking.finished()
        await self._serving.cancel()
        for fulfilment in list(self._fulfilments.values()):
            fulfilment.abandon("the launcher stops")
        try:
            async with asyncio.timeout(timeout):
                await self._work.finished()
        except TimeoutError:
            log.warning("Stopping with deletions under way; the next start finishes them")

    async def end(self) -> None:
        """End whatever still runs."""
        self._deleter.close()
        for tasks in (self._serving, self._taking, self._work):
            await tasks.cancel()
