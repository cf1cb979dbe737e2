"""Operations on nodes by hand: hold, delete, erase. They need no running launcher.

Like the launcher, they take the nodes' locks and update the quota ledger, so they do not
interfere with other users of a node, and usage stays correct.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from nodepool_k8s import presentation
from nodepool_k8s.client import Viewer, connection
from nodepool_k8s.config.settings import Provider, Settings, ZooKeeperSettings
from nodepool_k8s.drivers.driver import Driver, DriverFactory
from nodepool_k8s.drivers.outcomes import UNKNOWN_BLOCKERS
from nodepool_k8s.errors import (
    Conflict,
    DriverError,
    Held,
    NodepoolK8sError,
    NotHeld,
    Outdated,
    Vanished,
    describe,
)
from nodepool_k8s.launcher.tasks import Tasks
from nodepool_k8s.model import Node, NodeState
from nodepool_k8s.policy.lifecycle import move_node
from nodepool_k8s.znodes.nodes import has_driver_data, with_driver_data
from nodepool_k8s.znodes.paths import ledger_path, node_lock_path, node_path, request_path
from nodepool_k8s.zookeeper import locks
from nodepool_k8s.zookeeper.client import TransactionConflict, ZooKeeperClient
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper.ledger import released
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.operations import Delete, Operation
from nodepool_k8s.zookeeper.provider_clusters import ProviderClusters
from nodepool_k8s.zookeeper.store import Store

HOLDABLE = frozenset(
    [NodeState.READY, NodeState.IN_USE, NodeState.USED, NodeState.HOLD, NodeState.TESTING]
)
"""States in which a node can be held: it exists, and is not being deleted."""

DEFAULT_GRACE_SECONDS = 1.0
"""The deletion grace of a node whose label is no longer in the configuration."""

MAX_FORCED_TRIES = 20

OnProgress = Callable[[str], None]
"""Called with a short description of each step."""


class OperationRefused(NodepoolK8sError):
    """The operation is not possible; the text says why, and what to do instead."""


class _Crashes:
    """Keeps the errors of crashed tasks until the connection ends."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def task_crashed(self, task: str, error: BaseException) -> None:
        self.errors.append(error)


class Admin(Viewer):
    """Holds, deletes and erases nodes, with one connection to ZooKeeper."""

    def __init__(self, client: ZooKeeperClient, tasks: Tasks) -> None:
        super().__init__(client)
        self._tasks = tasks
        # The mirror is not loaded: records are read when they are needed.
        self._store = Store(client, Mirror(client, tasks.spawn))

    @classmethod
    @asynccontextmanager
    async def connected(cls, settings: ZooKeeperSettings) -> AsyncIterator[Admin]:
        """Connect to ZooKeeper for the length of the block. Raises ConnectionLost."""
        crashes = _Crashes()
        tasks = Tasks(crashes)
        async with connection(settings) as client:
            try:
                yield cls(client, tasks)
            finally:
                await tasks.cancel()
        for error in crashes.errors:
            raise error

    # --- one node ----------------------------------------------------------------------------

    async def hold(self, node_id: str, *, comment: str | None, expires: int | None) -> Node:
        """Set an unlocked node to ``hold``, and return it.

        ``expires`` in seconds from now; None means never. Raises OperationRefused.
        """
        node = await self._existing(node_id)
        if node.state is NodeState.READY and node.allocated_to:
            await self._require_unclaimed(node, node.allocated_to)

        def change(node: Node) -> Node:
            if node.state not in HOLDABLE:
                raise OperationRefused(f"node {node.id} is {node.state} and cannot be held")
            hold = {"hold_expiration": expires, "comment": comment}
            if comment is None:
                del hold["comment"]
            return move_node(node, NodeState.HOLD, time.time(), extra={**node.extra, **hold})

        return await self._rewrite(node_id, change)

    async def _require_unclaimed(self, node: Node, request_id: str) -> None:
        if await self.client.exists(request_path(request_id)) is not None:
            raise OperationRefused(
                f"node {node.id} is ready for request {request_id}, and its requestor "
                f"({node.requestor or 'unknown'}) may lock it at any moment; hold it after it "
                "was used, or hold another node"
            )

    async def mark_for_deletion(self, node_id: str, reason: str) -> Node:
        """Mark an unlocked node for deletion by a launcher, and return it.

        Raises OperationRefused.
        """
        return await self._rewrite(node_id, lambda node: _deleting(node, reason))

    async def _rewrite(self, node_id: str, change: Callable[[Node], Node]) -> Node:
        held = await self._take(node_id, change)
        await locks.release(self.client, held.lock)
        return held.node

    async def _take(self, node_id: str, change: Callable[[Node], Node]) -> HeldNode:
        """Lock a node and write what ``change`` returns. Raises OperationRefused."""
        while True:
            try:
                held = await self._store.take_node(node_id, change)
            except Outdated:
                continue
            except Vanished as error:
                raise _unknown_node(node_id) from error
            except Held as error:
                raise OperationRefused(await self._describe_lock(node_id)) from error
            assert held is not None
            return held

    async def _existing(self, node_id: str) -> Node:
        try:
            return await self.read_node(node_id)
        except Vanished as error:
            raise _unknown_node(node_id) from error

    async def _describe_lock(self, node_id: str) -> str:
        use = presentation.describe_use(await self._existing(node_id))
        return f"node {node_id} is locked by another process: {use}"

    # --- deleting now --------------------------------------------------------------------------

    async def delete_now(
        self,
        settings: Settings,
        drivers: DriverFactory,
        node_id: str,
        reason: str,
        timeout: float,
        on_progress: OnProgress,
    ) -> None:
        """Delete a node's objects, wait until they are gone, and remove its record.

        ``timeout`` in seconds. Raises OperationRefused; if the deletion had begun, the node
        stays ``deleting``, and a launcher continues it.
        """
        node = await self._existing(node_id)
        provider = _provider_of(node, settings)
        held = await self._take(node_id, lambda node: _deleting(node, reason))
        try:
            if provider is not None and held.node.external_id:
                deployment = await self._store.prepare()
                driver = drivers.create(provider, deployment)
                grace = _grace(node, settings)
                await self._delete_objects(driver, held.node, grace, timeout, on_progress)
            on_progress("removing its record")
            await self._remove(held)
        finally:
            await locks.release(self.client, held.lock)

    async def _delete_objects(
        self,
        driver: Driver,
        node: Node,
        grace: float,
        timeout: float,
        on_progress: OnProgress,
    ) -> None:
        try:
            async with asyncio.timeout(timeout):
                on_progress(f"connecting to the cluster of provider {driver.provider.name}")
                await driver.start(self._tasks.spawn)
                await driver.synced()
            on_progress(f"deleting {node.external_id}, and waiting until its quota is free")
            await self._delete(driver, node, grace, timeout)
        except DriverError as error:
            raise _not_deleted(node, describe(error)) from error
        except TimeoutError as error:
            why = f"the cluster did not answer within {timeout:g} s"
            raise _not_deleted(node, why) from error
        finally:
            await driver.close()

    async def _delete(self, driver: Driver, node: Node, grace: float, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await driver.delete(node, grace)
        except TimeoutError as error:
            blockers = await driver.blockers(node.external_id or "")
            why = "; ".join(blockers) or UNKNOWN_BLOCKERS
            raise _not_deleted(
                node, f"{node.external_id} still exists after {timeout:g} s: {why}"
            ) from error

    async def _remove(self, held: HeldNode) -> None:
        try:
            await self._store.remove_node(held)
        except Held as error:
            raise OperationRefused(
                f"node {held.node.id} is deleted, but another process waits for its lock; a "
                "launcher removes its record when the lock is released, or repeat this command"
            ) from error
        except NotHeld:
            if await self.client.exists(node_path(held.node.id)) is not None:
                raise

    # --- a whole provider ----------------------------------------------------------------------

    async def erase(self, provider: str, *, force: bool, on_progress: OnProgress) -> int:
        """Remove a provider's node records and ledgers; return the number of nodes.

        Nothing in its cluster is deleted. Raises OperationRefused if a launcher serves the
        provider, or a node is locked; ``force`` ignores both, and breaks locks.
        """
        nodes = await self.nodes(provider)
        if not force:
            await self.require_erasable(provider, nodes)
        for number, (node, _) in enumerate(nodes, 1):
            on_progress(f"erasing node {node.id}, {number} of {len(nodes)}")
            if force:
                await self._remove_by_force(node.id)
            else:
                held = await self._take(node.id, lambda node: _deleting(node, "erased"))
                await self._remove(held)
        await self._drop_ledgers(provider)
        await ProviderClusters(self.client).forget_all(provider)
        return len(nodes)

    async def require_erasable(self, provider: str, nodes: Sequence[tuple[Node, bool]]) -> None:
        """Raise OperationRefused if a launcher serves the provider, or a node is locked."""
        hosts = {record.get("hostname") for _, record in await self.components(provider)}
        if hosts:
            named = ", ".join(sorted(str(host) for host in hosts))
            raise OperationRefused(
                f"provider {provider} is served by a launcher on {named}: remove it from that "
                "launcher's configuration first, or use --force"
            )
        locked = [node for node, is_locked in nodes if is_locked]
        if locked:
            first = f"node {locked[0].id}: {presentation.describe_use(locked[0])}"
            raise OperationRefused(
                f"{len(locked)} of the {len(nodes)} nodes of provider {provider} are locked by "
                f"other processes ({first}); wait, or use --force"
            )

    async def _remove_by_force(self, node_id: str) -> None:
        for _ in range(MAX_FORCED_TRIES):
            try:
                node = await self.read_node(node_id)
                await self._store.ledgers.transact(released(node), await self._removal(node))
            except Vanished:
                return
            except TransactionConflict:
                # A contender joined or left, or the node is gone: the next read shows it.
                continue
            else:
                return
        raise OperationRefused(f"node {node_id} changes faster than it can be removed")

    async def _removal(self, node: Node) -> list[Operation]:
        path, lock = node_path(node.id), node_lock_path(node.id)
        children = await self.contenders(node.id)
        removal: list[Operation] = [Delete(f"{lock}/{child}") for child in children]
        if await self.client.exists(lock) is not None:
            removal.append(Delete(lock))
        return [*removal, Delete(path, node.version)]

    async def _drop_ledgers(self, provider: str) -> None:
        root = ledger_path(provider, "").rstrip("/")
        for name in await self.ledgers(provider):
            with suppress(Conflict):
                await self.client.transaction([Delete(ledger_path(provider, name))])
        with suppress(Conflict):
            await self.client.transaction([Delete(root)])


def _unknown_node(node_id: str) -> OperationRefused:
    return OperationRefused(f"there is no node {node_id}; see nodepool-k8s list")


def _provider_of(node: Node, settings: Settings) -> Provider | None:
    """The provider of the node's cluster; None if the node has no objects in a cluster."""
    if not has_driver_data(node):
        raise OperationRefused(
            f"node {node.id} was created by another program; omit --now, and that program "
            "deletes it"
        )
    provider = settings.provider(node.provider or "")
    if provider is None and node.external_id:
        raise OperationRefused(
            f"node {node.id} belongs to provider {node.provider}, which is not in this "
            "configuration, so its cluster is unknown. To remove the records of a retired "
            f"provider: nodepool-k8s erase {node.provider}"
        )
    return provider


def _grace(node: Node, settings: Settings) -> float:
    pool = settings.pool(node.provider, node.pool)
    label = pool.labels.get(node.type[0]) if pool and node.type else None
    return label.launch.deletion_grace if label else DEFAULT_GRACE_SECONDS


def _not_deleted(node: Node, why: str) -> OperationRefused:
    return OperationRefused(
        f"node {node.id} is not deleted yet: {why}. It stays marked for deletion, and a launcher "
        "that serves its provider continues"
    )


def _deleting(node: Node, reason: str) -> Node:
    is_own = has_driver_data(node)
    data = with_driver_data(node, {"reason": reason}) if is_own else node.driver_data
    return move_node(node, NodeState.DELETING, time.time(), driver_data=data)
