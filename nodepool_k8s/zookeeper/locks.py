"""kazoo's lock recipe without a thread: in two round trips, or inside a transaction."""

from __future__ import annotations

import random
import uuid

from nodepool_k8s.errors import AlreadyExists, Conflict, Held, SessionLost, Vanished
from nodepool_k8s.znodes import paths
from nodepool_k8s.zookeeper.client import TransactionConflict, ZooKeeperClient
from nodepool_k8s.zookeeper.operations import Create, Delete, Operation


async def acquire(client: ZooKeeperClient, parent: str) -> str:
    """Acquire the lock at ``parent``; returns the path of our child, which releases it.

    Raises Held, Vanished (the locked record does not exist), SessionLost.
    """
    await client.ensure_path(parent)
    child = await client.create_sequence(
        f"{parent}/{uuid.uuid4().hex}{paths.LOCK_INFIX}", b"", ephemeral=True
    )
    names = [name for name in await client.children(parent) if paths.LOCK_INFIX in name]
    first = min(names, key=lambda name: name.rpartition(paths.LOCK_INFIX)[2])
    if first != child.rpartition("/")[2]:
        await release(client, child)
        raise Held(f"{parent} is held by another client")
    return child


async def release(client: ZooKeeperClient, child: str) -> None:
    """Release a lock; a lock that is already gone is no error."""
    try:
        await client.transaction([Delete(child)])
    except SessionLost:
        raise
    except Conflict:
        return


# --- in a transaction --------------------------------------------------------------------


def child_name(parent: str) -> str:
    """A contender's path as kazoo's recipe makes it, the first below a new parent."""
    return f"{parent}/{random.getrandbits(128):032x}{paths.LOCK_INFIX}0000000000"


class LockSet:
    """Locks that a transaction acquires, each by the name of our child below its parent.

    Choosing the child's name is correct only where the transaction creates the parent.
    So an empty parent that exists is deleted first; that of a held lock cannot be deleted.
    ``expect_missing`` is the first guess; ``adjust`` corrects it from conflicts.
    """

    def __init__(self) -> None:
        self._children: dict[str, str | None] = {}
        self._missing: set[str] = set()

    def add(self, parent: str, *, expect_missing: bool) -> str:
        """Acquire this lock as well; returns the path of our child."""
        child = child_name(parent)
        self._expect(parent, child, expect_missing=expect_missing)
        return child

    def require_free(self, parent: str, *, expect_missing: bool) -> None:
        """Only require that the lock is free at the moment of the transaction."""
        self._expect(parent, None, expect_missing=expect_missing)

    def _expect(self, parent: str, child: str | None, *, expect_missing: bool) -> None:
        self._children[parent] = child
        if expect_missing:
            self._missing.add(parent)

    def operations(self) -> list[Operation]:
        """The operations that acquire or check all of them."""
        return [
            operation
            for parent, child in self._children.items()
            for operation in self._take(parent, child)
        ]

    def _take(self, parent: str, child: str | None) -> list[Operation]:
        expect_missing = parent in self._missing
        if child is None:
            return [Create(parent), Delete(parent)] if expect_missing else [Delete(parent)]
        take: list[Operation] = [Create(parent), Create(child, ephemeral=True)]
        return take if expect_missing else [Delete(parent), *take]

    def adjust(self, conflict: TransactionConflict) -> bool:
        """Correct a wrong guess about a parent; False if that was not the conflict's cause."""
        parent = conflict.operation.path
        if parent not in self._children:
            return False
        expect_missing = parent in self._missing
        if expect_missing and isinstance(conflict.cause, AlreadyExists):
            self._missing.discard(parent)
            return True
        if not expect_missing and isinstance(conflict.cause, Vanished):
            self._missing.add(parent)
            return True
        # The lock is held, or the locked record does not exist.
        return False
