"""kazoo's lock recipe on the wire, without a thread: in two round trips, or in a transaction."""

from __future__ import annotations

import random
import uuid

from nodepool_k8s.errors import AlreadyExists, Conflict, Held, SessionLost, Vanished
from nodepool_k8s.znodes import paths
from nodepool_k8s.zookeeper.client import TransactionConflict, ZooKeeperClient
from nodepool_k8s.zookeeper.operations import Create, Delete, Operation


async def acquire(client: ZooKeeperClient, parent: str) -> str:
    """Take the lock at ``parent``; the path of our child, to be deleted to let go.

    Raises Held, Vanished (what is to be locked is gone), SessionLost.
    """
    await client.ensure_path(parent)
    child = await client.create_sequence(
        f"{parent}/{uuid.uuid4().hex}{paths.LOCK_INFIX}", b"", ephemeral=True
    )
    names = [name for name in await client.children(parent) if paths.LOCK_INFIX in name]
    first = min(names, key=lambda name: name.rpartition(paths.LOCK_INFIX)[2])
    if first != child.rpartition("/")[2]:
        await release(client, child)
        raise Held(f"{parent} is held by somebody else")
    return child


async def release(client: ZooKeeperClient, child: str) -> None:
    """Let a lock go; that it is gone already is fine."""
    try:
        await client.transaction([Delete(child)])
    except SessionLost:
        raise
    except Conflict:
        return


# --- in a transaction --------------------------------------------------------------------


def child_name(parent: str) -> str:
    """A contender's name as kazoo's recipe makes it, the first in a parent of its own."""
    return f"{parent}/{random.getrandbits(128):032x}{paths.LOCK_INFIX}0000000000"


class LockSet:
    """Locks that a transaction takes, each by the name of our child in its parent.

    Naming the child by hand is right only where the transaction makes the parent;
    an empty one that exists is deleted first, and one that is held cannot be. Which it
    is, is guessed at first (``fresh``: the parent is missing) and learned from conflicts.
    """

    def __init__(self) -> None:
        self._children: dict[str, str | None] = {}
        self._missing: set[str] = set()

    def add(self, parent: str, *, expect_missing: bool) -> str:
        """Take that lock as well; the path of our child."""
        child = child_name(parent)
        self._expect(parent, child, expect_missing=expect_missing)
        return child

    def require_free(self, parent: str, *, expect_missing: bool) -> None:
        """Only prove that nobody has that lock, at the moment of the transaction."""
        self._expect(parent, None, expect_missing=expect_missing)

    def _expect(self, parent: str, child: str | None, *, expect_missing: bool) -> None:
        self._children[parent] = child
        if expect_missing:
            self._missing.add(parent)

    def operations(self) -> list[Operation]:
        """Take or probe all of them."""
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
        """Whether a conflict was only about a parent that had been guessed wrong."""
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
        # Somebody has it, or what is to be locked is gone itself.
        return False
