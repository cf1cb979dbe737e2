"""Nodes for programs: request them, run commands, return them.

::

    async with client.node("gpu") as node:
        result = await node.run(["nvidia-smi"], check=True)

``client.blocking`` is the same for programs without asyncio. Nodes are returned at the end
of the block; if the program dies, its ZooKeeper session expires, and the launcher removes
them.

Modules: ``session`` (requests), ``node`` (commands), ``transfer`` (files), ``requestor``
(the protocol, step by step), ``viewer`` (read-only access), ``discovery`` (finding
ZooKeeper).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nodepool_k8s.client.command import Result
from nodepool_k8s.client.discovery import identity
from nodepool_k8s.client.errors import (
    CommandFailed,
    CommandTimedOut,
    NodeLost,
    NoNodes,
    NoPod,
    NoZooKeeper,
    RequestFailed,
    TransferFailed,
    WaitedTooLong,
)
from nodepool_k8s.client.node import RemoteNode
from nodepool_k8s.client.requestor import PRIORITY, Requestor
from nodepool_k8s.client.session import NodeSession, OnWaiting, Waiting, connect
from nodepool_k8s.client.viewer import Viewer, connection
from nodepool_k8s.errors import CommandError, CommandNotStarted, NodepoolK8sError
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper_settings import BadAddress, ZooKeeperSettings, ZooKeeperTLS

__all__ = [
    "PRIORITY",
    "BadAddress",
    "CommandError",
    "CommandFailed",
    "CommandNotStarted",
    "CommandTimedOut",
    "HeldNode",
    "NoNodes",
    "NoPod",
    "NoZooKeeper",
    "NodeLost",
    "NodeSession",
    "NodepoolK8sError",
    "OnWaiting",
    "RemoteNode",
    "RequestFailed",
    "Requestor",
    "Result",
    "TransferFailed",
    "Viewer",
    "WaitedTooLong",
    "Waiting",
    "ZooKeeperSettings",
    "ZooKeeperTLS",
    "connect",
    "connection",
    "identity",
    "node",
    "nodes",
]


@asynccontextmanager
async def node(
    label: str,
    *,
    zookeeper: str | ZooKeeperSettings | None = None,
    tls: ZooKeeperTLS | None = None,
    config: str | None = None,
    provider: str | None = None,
    tenant: str | None = None,
    priority: str = PRIORITY,
    timeout: float | None = None,
    waiting: OnWaiting | None = None,
) -> AsyncIterator[RemoteNode]:
    """A node of the label for the duration of the block, with its own connection.

    See ``connect`` for how ZooKeeper is found, ``NodeSession.node`` for the other options.
    """
    async with (
        connect(zookeeper, tls=tls, config=config) as session,
        session.node(
            label,
            provider=provider,
            tenant=tenant,
            priority=priority,
            timeout=timeout,
            waiting=waiting,
        ) as found,
    ):
        yield found


@asynccontextmanager
async def nodes(
    *labels: str,
    zookeeper: str | ZooKeeperSettings | None = None,
    tls: ZooKeeperTLS | None = None,
    config: str | None = None,
    provider: str | None = None,
    tenant: str | None = None,
    priority: str = PRIORITY,
    timeout: float | None = None,
    waiting: OnWaiting | None = None,
) -> AsyncIterator[list[RemoteNode]]:
    """A node of each label, in that order and all from one pool, by one request."""
    async with (
        connect(zookeeper, tls=tls, config=config) as session,
        session.nodes(
            *labels,
            provider=provider,
            tenant=tenant,
            priority=priority,
            timeout=timeout,
            waiting=waiting,
        ) as found,
    ):
        yield found
