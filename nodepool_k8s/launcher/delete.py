"""Deletes nodes that are due: used, failed, too old, lost, or left by a launcher that died.

A node is deleted under its lock, and its record goes only when the driver says that nothing
of it uses resources any more.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from nodepool_k8s import telemetry
from nodepool_k8s.backoff import Backoff
from nodepool_k8s.config.settings import LaunchSettings, Settings
from nodepool_k8s.drivers.driver import Driver
from nodepool_k8s.errors import (
    Conflict,
    DriverError,
    Held,
    MalformedRecord,
    NotHeld,
    Outdated,
    SessionLost,
    Vanished,
)
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.launcher.providers import Providers
from nodepool_k8s.launcher.tasks import Tasks
from nodepool_k8s.logs import bind_log_context
from nodepool_k8s.model import Node, NodeState
from nodepool_k8s.policy import upkeep
from nodepool_k8s.policy.lifecycle import move_node
from nodepool_k8s.znodes.nodes import driver_data_of, with_driver_data
from nodepool_k8s.znodes.paths import node_path
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import HeldNode, Store

log = logging.getLogger(__name__)

WAKE_LATE = 0.01
"""Seconds after a node is due, so that it is due by then."""

LAG_SECONDS = 1.0
"""How long to wait for news of a node whose watch shows less than the API server has."""

REPORT_AFTER = 60.0
"""Seconds after which a deletion that does not end is reported, and looked at again."""


class Deleter:
    """Deletes what is due, each node in a task of its own."""

    def __init__(
        self,
        settings: Settings,
        providers: Providers,
        store: Store,
        mirror: Mirror,
        tasks: Tasks,
    ) -> None:
        self._settings = settings
        self._providers = providers
        self._store = store
        self._mirror = mirror
        self._tasks = tasks
        self._under_way: set[str] = set()
        self._closed = False
        self.stuck: dict[str, str] = {}
        """What holds the nodes whose deletion takes too long, by id."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        """What wakes us when a node has been kept long enough."""

    def reconfigure(self, settings: Settings) -> None:
        """Delete under these settings from now on."""
        self._settings = settings

    @property
    def under_way(self) -> frozenset[str]:
        """Ids of the nodes that are being deleted, or set free, right now."""
        return frozenset(self._under_way)

    def consider(self, node_id: str) -> None:
        """Look at a node that came, changed, or was unlocked; delete or free it if that is due."""
        self._forget_timer(node_id)
        node = None if self._closed else self._mirror.nodes.get(node_id)
        if node is None or node_id in self._under_way or not self._is_ours(node):
            return
        if self._is_freed(node):
            self._begin(node_id, self._free(node))
        elif self._why_delete(node) is not None:
            self._begin(node_id, self._take_and_delete(node_id))
        else:
            self._wake_when_due(node)

    def _is_ours(self, node: Node) -> bool:
        """Whether its driver can be used, and no other launcher alone serves its provider."""
        return self._providers.of(node) is not None and not upkeep.is_served_elsewhere(
            node.provider, self._settings.providers, self._mirror.components.values()
        )

    def is_usable(self, context: LaunchContext, node: Node) -> bool:
        """Whether a ready node may be handed out, instead of being deleted sooner or later.

        One at the backend that its provider had before is of no use to a new request.
        """
        return self._providers.of(node) is context.driver and context.is_usable(node)

    def close(self) -> None:
        """Look at nothing any more; what was begun goes on, and ``delete`` still deletes."""
        self._closed = True
        for node_id in list(self._timers):
            self._forget_timer(node_id)

    def _wake_when_due(self, node: Node) -> None:
        due = upkeep.due_at(node, self._ages(node))
        if due is None:
            return
        # A clock that is set back wakes us early; then we only look, and sleep again.
        delay = max(0.0, due - time.time()) + WAKE_LATE
        loop = asyncio.get_running_loop()
        self._timers[node.id] = loop.call_later(delay, self.consider, node.id)

    def _forget_timer(self, node_id: str) -> None:
        timer = self._timers.pop(node_id, None)
        if timer is not None:
            timer.cancel()

    def _ages(self, node: Node) -> upkeep.Ages:
        label = self._settings.labels.get(node.type[0]) if node.type else None
        ready = label.max_ready_age if label else None
        return upkeep.Ages(ready=ready, hold=self._settings.max_hold_age)

    def consider_nodes_of(self, request_id: str) -> None:
        """Look at the nodes allocated to a request that is gone, or was left by its launcher."""
        for node_id in self._mirror.allocated_to(request_id):
            self.consider(node_id)

    def delete(self, held: HeldNode, reason: str) -> None:
        """Delete a node whose lock is ours already."""
        self._begin(held.node.id, self._delete_held(held, reason))

    def _begin(self, node_id: str, deletion: Coroutine[Any, Any, None]) -> None:
        self._under_way.add(node_id)
        self._tasks.spawn(f"delete node {node_id}", self._tracked(node_id, deletion))

    async def _tracked(self, node_id: str, deletion: Awaitable[None]) -> None:
        bind_log_context(node=node_id)
        try:
            await deletion
        except NotHeld as error:
            log.warning("Left node %s alone: %s", node_id, error)
        finally:
            self._under_way.discard(node_id)
        # What happened to it meanwhile was not looked at.
        self.consider(node_id)

    def _why_delete(self, node: Node, *, may_be_lost: bool = True) -> str | None:
        return upkeep.why_delete(
            node,
            locked=self._mirror.node_locked(node.id),
            now=time.time(),
            ages=self._ages(node),
            unusable=self._why_unusable(node) if may_be_lost and node.unused else None,
        )

    def _why_unusable(self, node: Node) -> str | None:
        driver = self._providers.of(node)
        if driver is None:
            return None
        return driver.why_unusable(node, self._launch_settings(node))

    # --- setting free ---------------------------------------------------------------------------

    def _is_freed(self, node: Node) -> bool:
        return upkeep.is_freed(
            node,
            locked=self._mirror.node_locked(node.id),
            request=self._mirror.requests.get(node.allocated_to or ""),
        )

    async def _free(self, node: Node) -> None:
        """Make a ready node, whose request is gone or was left, whoever's comes next."""
        node_id, request_id = node.id, node.allocated_to or ""

        def is_due(found: Node) -> bool:
            # Another launcher may have freed it, and given it away, since we asked.
            return found.allocated_to == node.allocated_to and self._is_freed(found)

        with self._passing_over(node_id):
            request = await self._store.read_request(request_id)
            if request is not None and not upkeep.has_no_nodes(request):
                # The mirror only lacks it, or its answer, still.
                return
            if await self._store.free_node(node_id, request, is_due):
                what = "is gone" if request is None else f"is {request.state} without it"
                log.info("Node %s is free: request %s %s", node_id, request_id, what)

    @contextmanager
    def _passing_over(self, node_id: str) -> Iterator[None]:
        """Leave a node alone that somebody else has, changes or removes."""
        try:
            yield
        except (Held, Vanished, MalformedRecord):
            return
        except SessionLost:
            raise
        except Conflict:
            self._mirror.reread(node_path(node_id))

    # --- the way of one deletion ---------------------------------------------------------------

    async def remove_spare(self, node: Node, reason: str) -> bool:
        """Begin to delete an unused ready node; False where somebody else has it.

        True also where somebody else was faster to delete it. Whoever hears False finds in
        the mirror what has become of it, which may be that room is on its way.
        """
        if node.id in self._under_way:
            return True
        self._under_way.add(node.id)
        try:
            held = await self._take(node.id, lambda found: reason if found.unused else None)
        finally:
            self._under_way.discard(node.id)
        if held is None:
            return not await self._store.refresh_node(node.id)
        self._begin(node.id, self._delete(held, reason))
        return True

    async def remove_unoffered(self, node_id: str, reason: str) -> None:
        """Begin to delete an unused ready node, if it is ours to delete."""
        node = self._mirror.nodes.get(node_id)
        if node is not None and self._is_ours(node):
            await self.remove_spare(node, reason)

    async def _take_and_delete(self, node_id: str) -> None:
        lost = self._seems_lost(node_id)
        if lost is not None and not await self._is_lost(lost):
            return

        def why(found: Node) -> str | None:
            # What nobody was asked about is not lost: it may have become ready since.
            return self._why_delete(found, may_be_lost=lost is not None)

        held = await self._take(node_id, why)
        if held is not None:
            await self._delete(held, str(driver_data_of(held.node)["reason"]))

    async def _take(self, node_id: str, why: Callable[[Node], str | None]) -> HeldNode | None:
        """Lock a node and mark it, if there is a reason; None where it is left alone."""

        def change(node: Node) -> Node | None:
            reason = why(node)
            return _deleting(node, reason) if reason else None

        with self._passing_over(node_id):
            return await self._store.take_node(node_id, change)
        return None

    def _seems_lost(self, node_id: str) -> Node | None:
        """The node, if it is ready but cannot be handed out, as far as the watches show."""
        node = self._mirror.nodes.get(node_id)
        if node is None or not node.unused or self._why_unusable(node) is None:
            return None
        return node

    async def _is_lost(self, node: Node) -> bool:
        """Whether a ready node that seems lost is lost: a watch may only lag behind."""
        try:
            driver = self._providers.reach(node)
            if await driver.why_lost(node, self._launch_settings(node)) is not None:
                return True
        except DriverError as error:
            log.debug("Node %s cannot be looked at: %s", node.id, error)
        else:
            await driver.changed(node.external_id or "", LAG_SECONDS)
        return False

    async def _delete_held(self, held: HeldNode, reason: str) -> None:
        await self._delete(await self._mark_deleting(held, reason), reason)

    async def _mark_deleting(self, held: HeldNode, reason: str) -> HeldNode:
        while True:
            # A launch that was stopped may have written the record after it last looked.
            held = await self._store.read_held(held)
            deleting = dataclasses.replace(held, node=_deleting(held.node, reason))
            try:
                return await self._store.write_node(deleting)
            except Outdated:
                continue

    async def _delete(self, held: HeldNode, reason: str) -> None:
        node = held.node
        bind_log_context(node=node.id, label=",".join(node.type))
        log.info("Deleting node %s: %s", node.id, reason)
        started = time.monotonic()
        await self._delete_objects(node)
        try:
            await self._store.remove_node(held)
        except Held:
            log.debug("Somebody contends for node %s; it goes when he has left", node.id)
        else:
            seconds = time.monotonic() - started
            log.info("Deleted node %s in %.2f s", node.id, seconds)
            telemetry.node_deleted(node.provider or "", seconds)

    async def _delete_objects(self, node: Node) -> None:
        """Delete what the node is made of; tries again until the backend has done so."""
        if not node.external_id:
            return
        backoff = Backoff()
        while True:
            try:
                # Asked for each time: a provider that is taken out leaves its nodes to others.
                driver = self._providers.reach(node)
                await self._delete_at(driver, node)
            except DriverError as error:
                level = logging.DEBUG if backoff.failures else logging.WARNING
                log.log(level, "Deleting node %s has to be tried again: %s", node.id, error)
                await backoff.wait()
            else:
                return

    async def _delete_at(self, driver: Driver, node: Node) -> None:
        deletion = asyncio.ensure_future(driver.delete(node, self._grace(node)))
        began = time.monotonic()
        try:
            while not (await asyncio.wait({deletion}, timeout=REPORT_AFTER))[0]:
                await self._report_stuck(driver, node, time.monotonic() - began)
            await deletion
        finally:
            deletion.cancel()
            self.stuck.pop(node.id, None)

    async def _report_stuck(self, driver: Driver, node: Node, seconds: float) -> None:
        """Say what holds the node, at first and whenever that changes."""
        external_id = node.external_id or ""
        reason = "; ".join(await driver.blockers(external_id)) or "the cluster does not say what"
        if self.stuck.get(node.id) == reason:
            return
        self.stuck[node.id] = reason
        log.warning(
            "Node %s keeps its slot: %s is not gone after %.0f s: %s",
            node.id,
            external_id,
            seconds,
            reason,
        )

    def _grace(self, node: Node) -> float:
        return self._launch_settings(node).deletion_grace

    def _launch_settings(self, node: Node) -> LaunchSettings:
        pool = self._settings.pool(node.provider, node.pool)
        label = pool.labels.get(node.type[0]) if pool and node.type else None
        return label.launch if label else LaunchSettings()


def _deleting(node: Node, reason: str) -> Node:
    told = with_driver_data(node, reason=reason)
    return move_node(node, NodeState.DELETING, time.time(), driver_data=told)
