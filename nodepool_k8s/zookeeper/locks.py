"""kazoo's lock recipe on the wire, without a thread: two round trips, or Held."""

from __future__ import annotations

import uuid

from nodepool_k8s import wire
from nodepool_k8s.errors import Conflict, Held, SessionLost
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.operations import Delete


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
