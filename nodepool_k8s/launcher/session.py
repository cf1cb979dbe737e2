"""Everything that lives as long as one ZooKeeper session, wired together.

Creates the parts, applies the configuration to them, and ends them in order.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress

from nodepool_k8s.config.settings import Provider, Settings
from nodepool_k8s.launcher.claim import TenantLimits
from nodepool_k8s.launcher.delete import Deleter
from nodepool_k8s.launcher.event_router import EventRouter
from nodepool_k8s.launcher.fulfil import Fulfilment
from nodepool_k8s.launcher.fulfilments import Fulfilments
from nodepool_k8s.launcher.intervals import Intervals
from nodepool_k8s.launcher.launch_context import FailureObserver, LaunchContext
from nodepool_k8s.launcher.launch_slots import LaunchSlots
from nodepool_k8s.launcher.min_ready import MinReady
from nodepool_k8s.launcher.pool_queue import PoolQueue
from nodepool_k8s.launcher.progress import ProgressReporter
from nodepool_k8s.launcher.provider_upkeep import ProviderUpkeep, Stuck
from nodepool_k8s.launcher.providers import Providers
from nodepool_k8s.launcher.tasks import Tasks, TasksObserver
from nodepool_k8s.launcher.upkeep import Upkeep
from nodepool_k8s.model import Component, Node, NodeRequest
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.progress import ProgressRecords
from nodepool_k8s.zookeeper.provider_clusters import ProviderClusters
from nodepool_k8s.zookeeper.store import Store

log = logging.getLogger(__name__)

LAUNCHES_SHARE = 2 / 3
"""The part of the drain time in which launches under way may finish."""

GIVING_BACK_SECONDS = 5.0
"""How long giving requests back takes at most: a few round trips. A launcher that stops
always has that long."""


class SessionScope:
    """The queues, fulfilments, deletions and upkeep of one session."""

    def __init__(
        self,
        settings: Settings,
        identity: str,
        store: Store,
        mirror: Mirror,
        providers: Providers,
        known: ProviderClusters,
        progress: ProgressRecords,
        intervals: Intervals,
        tasks_observer: TasksObserver,
    ) -> None:
        self._identity = identity
        self._store = store
        self._mirror = mirror
        self._providers = providers
        self._serving = Tasks(tasks_observer)
        """Upkeep, and waiting for clusters."""
        self._taking = Tasks(tasks_observer)
        """The pools' queues, which take work on; ended first when the launcher stops."""
        self._fulfilling = Tasks(tasks_observer)
        """Requests being fulfilled."""
        self._work = Tasks(tasks_observer)
        """Requests being fulfilled, nodes being deleted."""
        self._launch_slots_by_provider: dict[str, LaunchSlots] = {}
        self._queues: dict[str, PoolQueue] = {}
        """By ``provider/pool``."""
        self._runs: dict[str, asyncio.Task[None]] = {}
        """The queues' tasks."""
        self._observer: FailureObserver | None = None
        self._intervals = intervals
        self._deleter = Deleter(settings, providers, store, mirror, self._work)
        self._fulfilments = Fulfilments(mirror, self._deleter, self._fulfilling)
        self._reports = ProgressReporter(
            progress, mirror, self._queues, self._fulfilments.by_request
        )
        self.provider_upkeep = ProviderUpkeep(settings, providers, store, mirror, known, intervals)
        self.upkeep = Upkeep(
            settings,
            self._deleter,
            store,
            mirror,
            self.provider_upkeep,
            intervals,
        )
        self._min_ready: MinReady

    @property
    def queues(self) -> Mapping[str, PoolQueue]:
        """The pools' queues, by ``provider/pool``."""
        return self._queues

    @property
    def fulfilments(self) -> Mapping[str, Fulfilment]:
        """The requests that are being served, by id."""
        return self._fulfilments.by_request

    @property
    def stuck(self) -> Mapping[str, str]:
        """What holds the nodes whose deletion takes too long, by id."""
        return self._deleter.stuck

    @property
    def stuck_deletions(self) -> tuple[Stuck, ...]:
        """Deletions that do not end, their nodes' records gone or not."""
        return self.provider_upkeep.stuck

    def observe(self, observer: FailureObserver) -> None:
        """Tell this one why launches fail."""
        self._observer = observer

    # --- launches -------------------------------------------------------------------------

    def attempt_failed(self, request: NodeRequest, node: Node, reason: str) -> None:
        """An attempt to launch a node failed."""
        if self._observer is not None:
            self._observer.attempt_failed(request, node, reason)

    def progressed(self) -> None:
        """What requests wait for may have changed."""
        self._reports.news()

    async def start(self, settings: Settings) -> None:
        """Start to serve, each provider as soon as its driver has connected."""
        self._min_ready = MinReady(settings, self._store, self._mirror)
        router = EventRouter(
            self._mirror,
            self._store,
            self._queues,
            self._fulfilments.by_request,
            self._deleter,
            self.upkeep,
            self.provider_upkeep,
            self._min_ready,
            self._reports,
            self._serving,
            self._work,
        )
        self._fulfilments.observe(router)
        self._mirror.listen(router.record_changed)
        await self.apply(settings)
        self._serving.spawn("upkeep", self.upkeep.run())
        self._serving.spawn("ask for spare nodes", self._min_ready.run())
        self._serving.spawn("report progress", self._reports.run())
        self._serving.spawn("drop stale progress records", self._drop_stale_reports())
        self._providers.observe(router)

    async def _drop_stale_reports(self) -> None:
        while True:
            await self._reports.drop_stale()
            await asyncio.sleep(self._intervals.upkeep)

    # --- the configuration -------------------------------------------------------------------

    async def apply(self, settings: Settings) -> None:
        """Serve this configuration, at the start and after each change.

        Pools that are served already are reconfigured and stay registered. Requests in flight
        finish under the settings that they started with.
        """
        await self._providers.apply(settings.providers)
        self._deleter.reconfigure(settings)
        self.upkeep.reconfigure(settings)
        self.provider_upkeep.reconfigure(settings)
        self._min_ready.reconfigure(settings)
        limits = settings.tenant_limits
        contexts = [
            LaunchContext(
                provider,
                pool,
                self._providers[provider.name],
                self._store,
                f"{socket.getfqdn()}-{pool.provider}-{pool.name}-{self._identity}",
                self,
            )
            for provider in settings.providers
            for pool in provider.pools
        ]
        # Register all new pools before any of them looks at a request, and deregister old
        # ones last: a request fails once every registered pool has declined it.
        new = [
            await self._register(context, limits)
            for context in contexts
            if context.pool.key not in self._queues
        ]
        for provider in settings.providers:
            self._launch_slots(provider).reconfigure(provider)
        for context in contexts:
            if context.pool.key in self._queues:
                self._queues[context.pool.key].reconfigure(context, limits)
        for queue in new:
            self._run(queue)
        for key in self._queues.keys() - {pool.key for pool in settings.pools}:
            await self._stop_serving(key)
        self.upkeep.consider_nodes()

    def _launch_slots(self, provider: Provider) -> LaunchSlots:
        return self._launch_slots_by_provider.setdefault(provider.name, LaunchSlots(provider))

    async def _register(self, context: LaunchContext, limits: TenantLimits) -> PoolQueue:
        pool, launch_slots = context.pool, self._launch_slots(context.provider)
        component = Component(
            id=context.component_id,
            provider_name=pool.provider,
            supported_labels=frozenset(pool.labels),
            priority=pool.priority,
            pool=pool.name,
        )
        queue = PoolQueue(
            context,
            component,
            launch_slots,
            self._store,
            self._mirror,
            self._deleter,
            self._fulfilments,
            limits,
        )
        queue.component_path = await self._store.register(component)
        return queue

    def _run(self, queue: PoolQueue) -> None:
        self._queues[queue.pool.key] = queue
        queue.offer_all()
        # Other launchers need to know whether its backend answers, even without any request.
        queue.wake()
        name = f"serve pool {queue.pool.key}"
        self._runs[queue.pool.key] = self._taking.spawn(name, queue.run())

    async def _stop_serving(self, key: str) -> None:
        """Leave a pool's requests to others; those in flight go on."""
        queue = self._queues.pop(key)
        queue.stop()
        await asyncio.wait({self._runs.pop(key)})
        await self._store.deregister(queue.component_path)
        queue.launch_slots.forget(queue)

    # --- stopping --------------------------------------------------------------------------

    async def drain(self, timeout: float, why: str) -> None:
        """Take no more requests, and finish those in flight or give them back.

        ``timeout`` in seconds. Launches have two thirds of it to finish; the rest is for
        giving requests back and deleting nodes. Giving back gets a few seconds even if
        ``timeout`` is shorter.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout(max(timeout, GIVING_BACK_SECONDS)):
                await self._take_no_more()
                await self._finish_launches(timeout * LAUNCHES_SHARE)
                self._fulfilments.abandon_all(why)
                await self._fulfilling.finished()
            async with asyncio.timeout_at(deadline):
                await self._work.finished()
        except TimeoutError:
            log.warning(
                "Stopping with %d requests in flight and %d deletions under way; "
                "the next start gives back and finishes them",
                len(self._fulfilling),
                len(self._work),
            )

    async def _take_no_more(self) -> None:
        """Stop the queues, and deregister them, so that other pools do not yield to them."""
        self._deleter.close()
        for queue in self._queues.values():
            queue.stop()
        await self._taking.finished()
        self._providers.observe(None)
        await self._serving.cancel()
        await self._reports.close()
        for queue in self._queues.values():
            await self._store.deregister(queue.component_path)

    async def _finish_launches(self, timeout: float) -> None:
        if not self._fulfilling or timeout <= 0:
            return
        log.info("Requests in flight: %d; they have %g s to finish", len(self._fulfilling), timeout)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._fulfilling.finished()

    async def end(self) -> None:
        """End whatever still runs."""
        self._providers.observe(None)
        self._deleter.close()
        for tasks in (self._serving, self._taking, self._fulfilling, self._work):
            await tasks.cancel()
