"""Deletes nodes that are due: used, failed, too old, lost, or left by a launcher that died.

A node is deleted under its lock. Its record is removed only after the driver reports that
the node no longer uses resources.
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
from nodepool_k8s.drivers.outcomes import UNKNOWN_BLOCKERS
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
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Store

log = logging.getLogger(__name__)

WAKE_LATE = 0.01
"""Seconds added to a timer, so that the node is due when it fires."""

LAG_SECONDS = 1.0
"""How long to wait for an event about a node whose watch shows less than its backend."""

CHECK_AGAIN = 5.0
"""Seconds until a node that seems lost is checked again, where its backend did not answer."""

REPORT_AFTER = 60.0
"""Seconds after which an unfinished deletion is reported, and checked again."""


class Deleter:
    """Deletes nodes that are due, each in a task of its own."""

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
        """What blocks deletions that take too long, by node id."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        """By node id: calls ``consider`` when the node's maximum age is reached."""

    def reconfigure(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings

    @property
    def under_way(self) -> frozenset[str]:
        """Ids of the nodes that are being deleted or freed."""
        return frozenset(self._under_way)

    def consider(self, node_id: str) -> None:
        """Delete or free a node that appeared, changed or was unlocked, if that is due."""
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
        """Stop looking for due nodes; running deletions continue, and ``delete`` still works."""
        self._closed = True
        for node_id in list(self._timers):
            self._forget_timer(node_id)

    def _wake_when_due(self, node: Node) -> None:
        due = upkeep.due_at(node, self._ages(node))
        if due is None:
            return
        # After the clock was set back this fires early; ``consider`` sets it again.
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
        """Consider the nodes of a request that was deleted or left by its launcher."""
        for node_id in self._mirror.allocated_to(request_id):
            self.consider(node_id)

    def delete(self, held: HeldNode, reason: str) -> None:
        """Delete a node whose lock is held already."""
        self._begin(held.node.id, self._delete_held(held, reason))

    def _begin(self, node_id: str, deletion: Coroutine[Any, Any, None]) -> None:
        self._under_way.add(node_id)
        self._tasks.spawn(f"delete node {node_id}", self._tracked(node_id, deletion))

    async def _tracked(self, node_id: str, deletion: Awaitable[None]) -> None:
        bind_log_context(node=node_id)
        try:
            await deletion
        except NotHeld as error:
            log.warning("Stopped deleting node %s: %s", node_id, error)
        finally:
            self._under_way.discard(node_id)
        # Changes were ignored meanwhile.
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

    # --- freeing --------------------------------------------------------------------------------

    def _is_freed(self, node: Node) -> bool:
        return upkeep.is_freed(
            node,
            locked=self._mirror.node_locked(node.id),
            request=self._mirror.requests.get(node.allocated_to or ""),
        )

    async def _free(self, node: Node) -> None:
        """Free a ready node whose request was deleted or given up, for the next request."""
        node_id, request_id = node.id, node.allocated_to or ""

        def is_due(found: Node) -> bool:
            # Another launcher may have freed and allocated it meanwhile.
            return found.allocated_to == node.allocated_to and self._is_freed(found)

        with self._skipping_conflicts(node_id):
            request = await self._store.read_request(request_id)
            if request is not None and not upkeep.has_no_nodes(request):
                # The mirror lags: the request exists and has its nodes.
                return
            if await self._store.free_node(node_id, request, is_due):
                what = "was deleted" if request is None else f"is {request.state} without it"
                log.info("Node %s is free: request %s %s", node_id, request_id, what)

    @contextmanager
    def _skipping_conflicts(self, node_id: str) -> Iterator[None]:
        """Skip a node that another client holds, changes or removes."""
        try:
            yield
        except (Held, Vanished, MalformedRecord):
            return
        except SessionLost:
            raise
        except Conflict:
            self._mirror.reread(node_path(node_id))

    # --- one deletion --------------------------------------------------------------------------

    async def remove_spare(self, node: Node, reason: str) -> bool:
        """Begin to delete an unused ready node; False where another client holds it.

        True also where another client is deleting it already. After False the mirror shows
        the node's current state.
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
        """Begin to delete an unused ready node, if this launcher may delete it."""
        node = self._mirror.nodes.get(node_id)
        if node is not None and self._is_ours(node):
            await self.remove_spare(node, reason)

    async def _take_and_delete(self, node_id: str) -> None:
        lost = self._seems_lost(node_id)
        if lost is not None and not await self._is_lost(lost):
            return

        def why(found: Node) -> str | None:
            # Without an answer of the backend it is not lost: it may have become ready since.
            return self._why_delete(found, may_be_lost=lost is not None)

        held = await self._take(node_id, why)
        if held is not None:
            await self._delete(held, driver_data_of(held.node)["reason"])

    async def _take(self, node_id: str, why: Callable[[Node], str | None]) -> HeldNode | None:
        """Lock a node and mark it as deleting, if there is a reason; None where not."""

        def change(node: Node) -> Node | None:
            reason = why(node)
            return _deleting(node, reason) if reason else None

        with self._skipping_conflicts(node_id):
            return await self._store.take_node(node_id, change)
        return None

    def _seems_lost(self, node_id: str) -> Node | None:
        """The node, if it is ready but not usable by what the driver was told."""
        node = self._mirror.nodes.get(node_id)
        if node is None or not node.unused or self._why_unusable(node) is None:
            return None
        return node

    async def _is_lost(self, node: Node) -> bool:
        """Ask the backend whether a node that seems lost is lost: a watch may lag."""
        try:
            driver = self._providers.reach(node)
            if await driver.why_lost(node, self._launch_settings(node)) is not None:
                return True
        except DriverError as error:
            log.debug("Node %s cannot be checked: %s", node.id, error)
            # The node is considered again at once after this.
            await asyncio.sleep(CHECK_AGAIN)
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
            log.debug("Node %s is contended; removal retried after the lock is released", node.id)
        else:
            seconds = time.monotonic() - started
            log.info("Deleted node %s in %.2f s", node.id, seconds)
            telemetry.node_deleted(node.provider or "", seconds)

    async def _delete_objects(self, node: Node) -> None:
        """Delete the node's objects; retries until the backend has done so."""
        if not node.external_id:
            return
        backoff = Backoff()
        while True:
            try:
                # Looked up each time: another driver serves the node after its provider is removed.
                driver = self._providers.reach(node)
                await self._delete_at(driver, node)
            except DriverError as error:
                level = logging.DEBUG if backoff.failures else logging.WARNING
                log.log(level, "Deleting node %s failed, trying again: %s", node.id, error)
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
        """Log what blocks the deletion, at first and when that changes."""
        external_id = node.external_id or ""
        reason = "; ".join(await driver.blockers(external_id)) or UNKNOWN_BLOCKERS
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
    driver_data = with_driver_data(node, {"reason": reason})
    return move_node(node, NodeState.DELETING, time.time(), driver_data=driver_data)
