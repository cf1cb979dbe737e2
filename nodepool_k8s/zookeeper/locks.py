"""kazoo's lock recipe on the wire, without a thread: in two round trips, or in a transaction."""

from __future__ import annotations

import random
import uuid

from nodepool_k8s import wire
from nodepool_k8s.errors import AlreadyExists, Conflict, Held, SessionLost, Vanished
from nodepool_k8s.zookeeper.client import TransactionConflict, ZooKeeperClient
from nodepool_k8s.zookeeper.operations import Create, Delete, Operation


async def acquire(client: ZooKeeperClient, parent: str) -> str:
    """Take the lock at ``parent``; the path of our child, to be deleted to let go.

    Raises Held, Vanished (what is to be locked is gone), SessionLost.
    """
    await client.ensure_path(parent)
    child = await client.create_sequence(
        f"{parent}/{uuid.uuid4().hex}{wire.LOCK_INFIX}", b"", ephemeral=True
    )
    names = [name for name in await client.children(parent) if wire.LOCK_INFIX in name]
    first = min(names, key=lambda name: name.rpartition(wire.LOCK_INFIX)[2])
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
    return f"{parent}/{random.getrandbits(128):032x}{wire.LOCK_INFIX}0000000000"


def take(parent: str, child: str, *, fresh: bool) -> list[Operation]:
    """Take a lock in a transaction.

    Naming the child by hand is right only where the transaction makes the parent;
    an empty one that exists is deleted first, and one that is held cannot be.
    """
    take: list[Operation] = [Create(parent), Create(child, ephemeral=True)]
    return take if fresh else [Delete(parent), *take]


def is_fresh(conflict: TransactionConflict) -> bool:
    """Whether a lock's parent is missing, from how taking it failed.

    Raises Held where somebody has it.
    """
    if isinstance(conflict.cause, AlreadyExists):
        return False
    if isinstance(conflict.cause, Vanished):
        return True
    raise conflict.cause from conflict
