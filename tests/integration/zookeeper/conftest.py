"""Connections and stores of the ZooKeeper adapter, each as one launcher has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from cluster import LocalCluster
from harness.proxy import Proxy

from nodepool_k8s.config.settings import ZooKeeperServer, ZooKeeperSettings
from nodepool_k8s.launcher.tasks import Tasks
from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.mirror import Mirror
from nodepool_k8s.zookeeper.store import Store
from tests.support.crashes import NoCrash
from tests.support.zuul import Zuul


def settings_for(address: str, chroot: str) -> ZooKeeperSettings:
    host, _, port = address.rpartition(":")
    return ZooKeeperSettings((ZooKeeperServer(host, int(port), chroot),), timeout=4)


@dataclass
class Actor:
    """One launcher's view of ZooKeeper."""

    client: ZooKeeperClient
    mirror: Mirror
    store: Store
    tasks: Tasks

    async def close(self) -> None:
        await self.tasks.cancel()
        await self.client.close()


NewActor = Callable[[], Awaitable[Actor]]


async def act(settings: ZooKeeperSettings) -> Actor:
    """Connect, and mirror what is there."""
    client = ZooKeeperClient(settings)
    await client.start()
    tasks = Tasks(NoCrash())
    mirror = Mirror(client, tasks.spawn)
    store = Store(client, mirror)
    await store.prepare()
    await mirror.load()
    return Actor(client, mirror, store, tasks)


@pytest.fixture
async def new_actor(fake_cluster: LocalCluster, chroot: str, zuul: Zuul) -> AsyncIterator[NewActor]:
    """Connects straight."""
    actors: list[Actor] = []

    async def new() -> Actor:
        actors.append(await act(settings_for(fake_cluster.zookeeper, chroot)))
        return actors[-1]

    yield new
    for actor in actors:
        await actor.close()


@pytest.fixture
async def actor(new_actor: NewActor) -> Actor:
    return await new_actor()


@pytest.fixture
async def proxy(fake_cluster: LocalCluster) -> AsyncIterator[Proxy]:
    async with Proxy.to(fake_cluster.zookeeper) as proxy:
        yield proxy


@pytest.fixture
async def proxied(proxy: Proxy, chroot: str, zuul: Zuul) -> AsyncIterator[Actor]:
    """Connects through the proxy."""
    actor = await act(settings_for(proxy.address, chroot))
    yield actor
    await actor.close()
