"""The bridge to kazoo: transactions that happen once, whatever becomes of their answer."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from cluster import LocalCluster
from harness.proxy import Proxy
from kazoo.client import KazooClient

from nodepool_k8s.config.settings import ZooKeeperServer, ZooKeeperSettings, ZooKeeperTLS
from nodepool_k8s.errors import (
    AlreadyExists,
    ConnectionLost,
    Held,
    Outdated,
    SessionLost,
    Vanished,
)
from nodepool_k8s.zookeeper.client import TransactionConflict, ZooKeeperClient
from nodepool_k8s.zookeeper.operations import Check, Create, Delete, Operation, SetData
from tests.integration.zookeeper.conftest import Actor
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration


def credentials(actor: Actor) -> Any:
    """Id and password of the session; to be asked while it is connected."""
    return actor.client._kazoo.client_id


async def end_session(client_id: Any, zuul: Zuul) -> None:
    """End a session by a second connection that has its id and password."""
    twin = KazooClient(hosts=zuul.hosts, client_id=client_id, timeout=4)

    def end() -> None:
        twin.start()
        twin.stop()
        twin.close()

    await asyncio.to_thread(end)


async def text(zuul: Zuul, path: str) -> str:
    data, _ = await zuul.do(zuul.kazoo.get, path)
    return str(data.decode())


async def test_all_of_a_transaction_happens_or_nothing(actor: Actor, zuul: Zuul) -> None:
    await actor.client.transaction([Create("/a", b"1"), Create("/b", b"2")])
    with pytest.raises(TransactionConflict) as caught:
        await actor.client.transaction(
            [SetData("/a", b"3", 0), Create("/c"), Delete("/nonesuch"), Delete("/b")]
        )
    assert caught.value.operation == Delete("/nonesuch")
    assert await text(zuul, "/a") == "1"
    assert not await zuul.children("/c")
    assert await text(zuul, "/b") == "2"


@pytest.mark.parametrize(
    ("operation", "cause"),
    [
        (Check("/none"), Vanished),
        (Check("/one", 5), Outdated),
        (Create("/one"), AlreadyExists),
        (Create("/none/child"), Vanished),
        (SetData("/none", b"", 0), Vanished),
        (SetData("/one", b"", 5), Outdated),
        (Delete("/none"), Vanished),
        (Delete("/one", 5), Outdated),
        (Delete("/parent"), Held),
    ],
)
async def test_a_conflict_says_what_stood_in_the_way(
    actor: Actor, operation: Operation, cause: type[Exception]
) -> None:
    await actor.client.transaction([Create("/one"), Create("/parent"), Create("/parent/child")])
    with pytest.raises(TransactionConflict) as caught:
        await actor.client.transaction([operation])
    assert isinstance(caught.value.cause, cause)
    assert caught.value.operation is operation


LOCK = "/lock/x__lock__0000000000"
TRANSACTIONS: dict[str, list[Operation]] = {
    "a write": [SetData("/a", b"2", 0)],
    "a lock that is taken": [SetData("/a", b"2", 0), Create(LOCK, ephemeral=True)],
    "a lock that is let go": [SetData("/a", b"2", 0), Delete("/held/y__lock__0000000000")],
    "a lock that is probed": [Create("/probe"), Delete("/probe"), SetData("/a", b"2", 0)],
    "a lock that is proved": [Delete("/old"), SetData("/a", b"2", 0)],
}


async def prepared(actor: Actor) -> None:
    held = Create("/held/y__lock__0000000000", ephemeral=True)
    made = [Create("/a", b"1"), Create("/lock"), Create("/old"), Create("/held"), held]
    await actor.client.transaction(made)


@pytest.mark.parametrize("name", TRANSACTIONS)
async def test_a_transaction_whose_answer_is_lost_happens_once(
    proxied: Actor, proxy: Proxy, zuul: Zuul, name: str
) -> None:
    await prepared(proxied)
    proxy.lose_answers()
    work = asyncio.ensure_future(proxied.client.transaction(TRANSACTIONS[name]))
    await eventually(lambda: is_written(zuul), "it has happened")
    await proxy.refuse()
    proxy.restore()
    await work
    assert (await proxied.client.get("/a"))[1].version == 1


async def is_written(zuul: Zuul) -> bool:
    return await text(zuul, "/a") == "2"


@pytest.mark.parametrize("name", TRANSACTIONS)
async def test_a_transaction_that_never_arrived_is_repeated(
    proxied: Actor, proxy: Proxy, zuul: Zuul, name: str
) -> None:
    await prepared(proxied)
    await proxy.refuse()
    work = asyncio.ensure_future(proxied.client.transaction(TRANSACTIONS[name]))
    await eventually(lambda: not proxied.client.connected, "the connection is lost")
    proxy.restore()
    await work
    assert await is_written(zuul)
    assert (await proxied.client.get("/a"))[1].version == 1


async def test_reads_outlive_a_dropped_connection(proxied: Actor, proxy: Proxy) -> None:
    await proxied.client.transaction([Create("/a", b"1")])
    await proxy.refuse()
    reads: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: proxied.client.get("/a"),
        lambda: proxied.client.children("/"),
        lambda: proxied.client.exists("/a"),
        lambda: proxied.client.sync("/"),
        lambda: proxied.client.ensure_path("/deep/down"),
        lambda: proxied.client.watch_recursively("/"),
    ]
    work = asyncio.gather(*(read() for read in reads))
    await eventually(lambda: not proxied.client.connected, "the connection is lost")
    proxy.restore()
    answers = await work
    assert answers[0][0] == b"1"


async def test_a_sequence_whose_answer_is_lost_says_so(
    proxied: Actor, proxy: Proxy, zuul: Zuul
) -> None:
    proxy.lose_answers()
    work = asyncio.ensure_future(proxied.client.create_sequence("/s-", b"x"))
    await proxy.lost_answer.wait()
    await proxy.refuse()
    with pytest.raises(ConnectionLost):
        await work
    proxy.restore()
    assert any(name.startswith("s-") for name in await zuul.children("/"))


async def test_a_session_that_is_over_stays_over(actor: Actor, zuul: Zuul) -> None:
    session = actor.client.session
    await actor.client.transaction([Create("/mine__lock__", ephemeral=True)])
    await end_session(credentials(actor), zuul)
    await session.ended()
    assert session.over
    await actor.client.wait_connection_after(1)
    assert actor.client.session is not session
    assert await actor.client.exists("/mine__lock__") is None


async def test_a_waiting_transaction_ends_with_its_session(
    proxied: Actor, proxy: Proxy, zuul: Zuul
) -> None:
    client_id = credentials(proxied)
    await proxy.refuse()
    work = asyncio.ensure_future(proxied.client.transaction([Create("/a")]))
    await eventually(lambda: not proxied.client.connected, "the connection is lost")
    await end_session(client_id, zuul)
    proxy.restore()
    with pytest.raises(SessionLost):
        await work
    assert "a" not in await zuul.children("/")


async def test_who_cannot_connect_is_told_where_to_look(chroot: str) -> None:
    client = ZooKeeperClient(ZooKeeperSettings((ZooKeeperServer("127.0.0.1", 1, chroot),)))
    with pytest.raises(ConnectionLost, match="zookeeper-servers"):
        await client.start(timeout=0.3)
    await client.close()


async def test_every_server_of_an_ensemble_is_tried_in_the_chroot(
    fake_cluster: LocalCluster, chroot: str, zuul: Zuul
) -> None:
    host, _, port = fake_cluster.zookeeper.rpartition(":")
    servers = [ZooKeeperServer(host, each, chroot) for each in (1, 2, int(port))]
    settings = ZooKeeperSettings(tuple(servers))
    assert settings.hosts == f"{host}:1,{host}:2,{host}:{port}{chroot}"
    client = ZooKeeperClient(settings)
    await client.start(timeout=30)
    try:
        await client.transaction([Create("/here", b"1")])
        assert await text(zuul, "/here") == "1"
    finally:
        await client.close()


async def test_a_chroot_that_is_missing_is_made(
    fake_cluster: LocalCluster, chroot: str, zuul: Zuul
) -> None:
    host, _, port = fake_cluster.zookeeper.rpartition(":")
    servers = (ZooKeeperServer(host, int(port), f"{chroot}/deep/down"),)
    client = ZooKeeperClient(ZooKeeperSettings(servers))
    await client.start()
    await client.close()
    assert await zuul.children("/deep") == ["down"]


async def test_tls_is_spoken_with_certificates(
    fake_cluster: LocalCluster, chroot: str, zuul: Zuul
) -> None:
    if not fake_cluster.zookeeper_tls:
        pytest.skip("not run: the cluster that the environment names has no TLS port")
    host, _, port = fake_cluster.zookeeper_tls.rpartition(":")
    ca, cert, key = map(str, fake_cluster.zookeeper_tls_files)
    tls = ZooKeeperTLS(cert=cert, key=key, ca=ca)
    client = ZooKeeperClient(ZooKeeperSettings((ZooKeeperServer(host, int(port), chroot),), tls))
    await client.start()
    try:
        await client.transaction([Create("/over-tls", b"1")])
        assert await text(zuul, "/over-tls") == "1"
    finally:
        await client.close()
