"""The simulated ensemble and a real ZooKeeper answer alike.

Each test runs against both: what the simulation proves rests on it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import pytest
from cluster import LocalCluster
from kazoo import exceptions as kazoo_errors
from simulation.ensemble import (
    MAX_REQUEST_BYTES,
    AddWatch,
    Children,
    Client,
    ConnectionBroke,
    Delays,
    Ensemble,
    Exists,
    Get,
    Request,
    Sync,
    WatchEvent,
)
from simulation.tree import CreateSequence, Multi, MultiFailed, RequestFailed, SingleWrite, Stat

from nodepool_k8s.zookeeper.operations import Check, Create, Delete, SetData
from nodepool_k8s.zookeeper.recursive_watch import RecursiveWatchClient
from tests.support.waiting import eventually


class Connection(Protocol):
    """One session."""

    events: list[tuple[str, str]]
    session_id: int

    async def request(self, request: Request) -> Any: ...

    async def close(self) -> None: ...


NewConnection = Callable[[], Awaitable[Connection]]


class Simulated:
    """A session of the simulated ensemble."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.events: list[tuple[str, str]] = []
        self._client = Client(ensemble, on_event=self._heard)
        self._client.start()
        self.session_id = self._client.session_id

    def _heard(self, event: WatchEvent) -> None:
        self.events.append((event.kind, event.path))

    async def request(self, request: Request) -> Any:
        return await self._client.request(request)

    async def close(self) -> None:
        self._client.close()


class Real:
    """A session of a real server, by kazoo."""

    def __init__(self, hosts: str) -> None:
        self.events: list[tuple[str, str]] = []
        self._kazoo = RecursiveWatchClient(hosts=hosts, timeout=10)
        self._kazoo.watch_callback = lambda kind, path: self.events.append((kind, path))
        self.session_id = 0

    async def start(self) -> None:
        await asyncio.to_thread(self._kazoo.start)
        self.session_id = self._kazoo.client_id[0]

    async def request(self, request: Request) -> Any:
        result = await asyncio.to_thread(self._ask, request)
        if isinstance(request, Multi):
            return _multi_result(result)
        return result

    def _ask(self, request: Request) -> Any:
        try:
            return self._call(request)
        except kazoo_errors.ConnectionLoss as error:
            raise ConnectionBroke from error
        except kazoo_errors.ZookeeperError as error:
            raise RequestFailed(_error_name(error)) from error

    def _call(self, request: Request) -> Any:
        match request:
            case Get(path):
                data, stat = self._kazoo.get(path)
                return data, _stat(stat)
            case Children(path):
                return sorted(self._kazoo.get_children(path))
            case Exists(path):
                stat = self._kazoo.exists(path)
                return None if stat is None else _stat(stat)
            case Sync(path):
                self._kazoo.sync(path)
                return None
            case AddWatch(path):
                # Below a chroot, the root has no slash of its own.
                self._kazoo.add_recursive_watch_async(path.rstrip("/")).get(timeout=10)
                return None
            case Multi(operations):
                transaction = self._kazoo.transaction()
                for operation in operations:
                    _write(transaction, operation)
                return transaction.commit()
            case _:
                return self._write_one(request)

    def _write_one(self, request: SingleWrite) -> Any:
        match request:
            case Create(path, data, ephemeral):
                return self._kazoo.create(path, data, ephemeral=ephemeral)
            case CreateSequence(path, data, ephemeral):
                return self._kazoo.create(path, data, ephemeral=ephemeral, sequence=True)
            case SetData(path, data, version):
                self._kazoo.set(path, data, version)
            case Delete(path, version):
                self._kazoo.delete(path, version)
        return None

    async def close(self) -> None:
        await asyncio.to_thread(self._kazoo.stop)
        await asyncio.to_thread(self._kazoo.close)


def _write(transaction: Any, operation: SingleWrite) -> None:
    match operation:
        case Create(path, data, ephemeral):
            transaction.create(path, data, None, ephemeral)
        case CreateSequence(path, data, ephemeral):
            transaction.create(path, data, None, ephemeral, True)
        case SetData(path, data, version):
            transaction.set_data(path, data, version)
        case Delete(path, version):
            transaction.delete(path, version)
        case Check(path, version):
            transaction.check(path, version)


def _multi_result(results: list[Any]) -> list[str]:
    errors = [result for result in results if isinstance(result, Exception)]
    if errors:
        raise MultiFailed([_error_name(result) for result in results])
    return [result for result in results if isinstance(result, str)]


def _error_name(error: Any) -> str:
    if isinstance(error, kazoo_errors.RolledBackError):
        return "RolledBack"
    return type(error).__name__.removesuffix("Error")


def _stat(stat: Any) -> Stat:
    return Stat(
        version=stat.version,
        created_zxid=stat.czxid,
        modified_zxid=stat.mzxid,
        owner=stat.ephemeralOwner or 0,
        created_ms=stat.ctime,
        modified_ms=stat.mtime,
        children=stat.numChildren,
    )


@pytest.fixture
async def simulated_connections() -> AsyncIterator[NewConnection]:
    delays = Delays(network=0.001, commit=0.001)
    ensemble = Ensemble(asyncio.get_running_loop(), random.Random(1), servers=3, delays=delays)
    opened: list[Connection] = []

    async def connect() -> Connection:
        opened.append(Simulated(ensemble))
        return opened[-1]

    yield connect
    for connection in opened:
        await connection.close()


@pytest.fixture
async def real_connections(fake_cluster: LocalCluster, chroot: str) -> AsyncIterator[NewConnection]:
    bare = RecursiveWatchClient(hosts=fake_cluster.zookeeper)
    await asyncio.to_thread(bare.start)
    await asyncio.to_thread(bare.ensure_path, chroot)
    await asyncio.to_thread(bare.stop)
    await asyncio.to_thread(bare.close)
    opened: list[Connection] = []

    async def connect() -> Connection:
        real = Real(f"{fake_cluster.zookeeper}{chroot}")
        await real.start()
        opened.append(real)
        return real

    yield connect
    for connection in opened:
        await connection.close()


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.integration)])
def new_connection(request: pytest.FixtureRequest) -> NewConnection:
    found: NewConnection = request.getfixturevalue(f"{request.param}_connections")
    return found


@pytest.fixture
async def zookeeper(new_connection: NewConnection) -> Connection:
    return await new_connection()


async def fails_with(error: str, work: Awaitable[Any]) -> None:
    with pytest.raises(RequestFailed) as caught:
        await work
    assert caught.value.error == error


# --- znodes --------------------------------------------------------------------------------------


async def test_data_and_stat_of_a_new_znode(zookeeper: Connection) -> None:
    assert await zookeeper.request(Create("/a", b"one")) == "/a"
    data, stat = await zookeeper.request(Get("/a"))
    assert data == b"one"
    assert (stat.version, stat.owner, stat.children) == (0, 0, 0)
    assert stat.created_zxid == stat.modified_zxid > 0


async def test_setting_counts_the_version(zookeeper: Connection) -> None:
    await zookeeper.request(Create("/a", b"one"))
    await zookeeper.request(SetData("/a", b"two", 0))
    data, stat = await zookeeper.request(Get("/a"))
    assert (data, stat.version) == (b"two", 1)
    assert stat.modified_zxid > stat.created_zxid
    assert stat.modified_ms >= stat.created_ms
    await fails_with("BadVersion", zookeeper.request(SetData("/a", b"three", 0)))
    await zookeeper.request(SetData("/a", b"any", -1))


async def test_what_is_missing(zookeeper: Connection) -> None:
    await fails_with("NoNode", zookeeper.request(Get("/a")))
    await fails_with("NoNode", zookeeper.request(Children("/a")))
    await fails_with("NoNode", zookeeper.request(SetData("/a", b"", -1)))
    await fails_with("NoNode", zookeeper.request(Delete("/a")))
    await fails_with("NoNode", zookeeper.request(Create("/a/b")))
    assert await zookeeper.request(Exists("/a")) is None


async def test_deleting(zookeeper: Connection) -> None:
    await zookeeper.request(Create("/a"))
    await zookeeper.request(Create("/a/b"))
    await fails_with("NotEmpty", zookeeper.request(Delete("/a")))
    await zookeeper.request(Delete("/a/b", 0))
    await fails_with("BadVersion", zookeeper.request(Delete("/a", 1)))
    await zookeeper.request(Delete("/a"))
    assert await zookeeper.request(Exists("/a")) is None


async def test_a_path_can_exist_once(zookeeper: Connection) -> None:
    await zookeeper.request(Create("/a"))
    await fails_with("NodeExists", zookeeper.request(Create("/a")))


async def test_sequences_count_creations_only(zookeeper: Connection) -> None:
    await zookeeper.request(Create("/a"))
    assert await zookeeper.request(CreateSequence("/a/x-")) == "/a/x-0000000000"
    await zookeeper.request(Create("/a/plain"))
    await zookeeper.request(Delete("/a/plain"))
    await zookeeper.request(SetData("/a", b"changed", -1))
    assert await zookeeper.request(CreateSequence("/a/y-")) == "/a/y-0000000002"
    await fails_with("NodeExists", zookeeper.request(Create("/a/y-0000000002")))
    assert await zookeeper.request(Children("/a")) == ["x-0000000000", "y-0000000002"]


async def test_sequences_begin_again_with_a_new_parent(zookeeper: Connection) -> None:
    for _ in range(2):
        await zookeeper.request(Create("/a"))
        path = await zookeeper.request(CreateSequence("/a/"))
        assert path == "/a/0000000000"
        await zookeeper.request(Delete(path))
        await zookeeper.request(Delete("/a"))


# --- sessions ------------------------------------------------------------------------------------


async def test_an_ephemeral_znode_has_an_owner(zookeeper: Connection) -> None:
    await zookeeper.request(Create("/a", ephemeral=True))
    _, stat = await zookeeper.request(Get("/a"))
    assert stat.owner == zookeeper.session_id
    await fails_with("NoChildrenForEphemerals", zookeeper.request(Create("/a/b")))


async def test_a_closed_session_takes_its_ephemerals(new_connection: NewConnection) -> None:
    first, second = await new_connection(), await new_connection()
    await first.request(Create("/kept"))
    await first.request(Create("/a", ephemeral=True))
    await first.request(Create("/b", ephemeral=True))
    await second.request(AddWatch("/"))
    await first.close()
    await eventually(lambda: len(second.events) >= 2)
    assert sorted(second.events) == [("DELETED", "/a"), ("DELETED", "/b")]
    assert await second.request(Exists("/kept")) is not None


async def test_another_session_may_delete_an_ephemeral(new_connection: NewConnection) -> None:
    first, second = await new_connection(), await new_connection()
    await first.request(Create("/a", ephemeral=True))
    await second.request(Sync("/"))
    await second.request(Delete("/a"))
    await first.request(Sync("/"))
    assert await first.request(Exists("/a")) is None


# --- transactions --------------------------------------------------------------------------


async def test_a_multi_applies_in_order(zookeeper: Connection) -> None:
    created = await zookeeper.request(
        Multi(
            (
                Create("/a", b"x"),
                Create("/a/b", ephemeral=True),
                SetData("/a", b"y", 0),
                Check("/a", 1),
                CreateSequence("/a/n-"),
            )
        )
    )
    assert created == ["/a", "/a/b", "/a/n-0000000001"]
    data, stat = await zookeeper.request(Get("/a"))
    assert (data, stat.version, stat.children) == (b"y", 1, 2)
    _, child = await zookeeper.request(Get("/a/b"))
    assert child.created_zxid == stat.created_zxid


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (Check("/kept", 5), "BadVersion"),
        (SetData("/missing", b"", -1), "NoNode"),
        (Create("/kept"), "NodeExists"),
        (Delete("/kept"), "NotEmpty"),
        (Create("/e/child"), "NoChildrenForEphemerals"),
    ],
)
async def test_a_failed_multi_changes_nothing(
    zookeeper: Connection, last: Check | SetData | Create | Delete, error: str
) -> None:
    await zookeeper.request(Create("/kept", b"before"))
    await zookeeper.request(Create("/kept/child"))
    await zookeeper.request(Create("/e", ephemeral=True))
    operations = (
        SetData("/kept", b"after", 0),
        Delete("/kept/child"),
        Create("/kept/child", b"again"),
        Delete("/e"),
        Create("/e", ephemeral=True),
        last,
        Create("/never"),
    )
    with pytest.raises(MultiFailed) as caught:
        await zookeeper.request(Multi(operations))
    assert caught.value.errors == ("RolledBack",) * 5 + (error, "RuntimeInconsistency")
    data, stat = await zookeeper.request(Get("/kept"))
    assert (data, stat.version) == (b"before", 0)
    assert await zookeeper.request(Get("/kept/child")) == (b"", stat_of_new_child(stat))
    assert (await zookeeper.request(Get("/e")))[1].owner == zookeeper.session_id
    assert await zookeeper.request(CreateSequence("/kept/")) == "/kept/0000000001"


class stat_of_new_child:  # noqa: N801
    """Equal to the stat of a znode that was created once and never changed."""

    def __init__(self, parent: Stat) -> None:
        self._parent = parent

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Stat)
            and (other.version, other.children) == (0, 0)
            and other.created_zxid > self._parent.created_zxid
        )

    __hash__ = None  # type: ignore[assignment]


async def test_a_parent_and_its_child_can_be_replaced(zookeeper: Connection) -> None:
    await zookeeper.request(Create("/lock"))
    replace = Multi(
        (Delete("/lock"), Create("/lock"), Create("/lock/c__lock__0000000000", ephemeral=True))
    )
    await zookeeper.request(replace)
    with pytest.raises(MultiFailed) as caught:
        await zookeeper.request(replace)
    assert caught.value.errors[0] == "NotEmpty"


# --- watches -------------------------------------------------------------------------------


async def test_a_watch_tells_all_below_in_order(new_connection: NewConnection) -> None:
    writer, reader = await new_connection(), await new_connection()
    await writer.request(Create("/a"))
    await writer.request(Create("/ab"))
    await reader.request(Sync("/"))
    await reader.request(AddWatch("/a"))
    await writer.request(Create("/a/b"))
    await writer.request(Create("/a/b/c", ephemeral=True))
    await writer.request(SetData("/a/b", b"x", -1))
    await writer.request(SetData("/ab", b"not watched", -1))
    await writer.request(Multi((Delete("/a/b/c"), Delete("/a/b"), SetData("/a", b"y", -1))))
    await reader.request(Sync("/"))
    # An event comes before the answer to whatever is asked after it.
    assert reader.events == [
        ("CREATED", "/a/b"),
        ("CREATED", "/a/b/c"),
        ("CHANGED", "/a/b"),
        ("DELETED", "/a/b/c"),
        ("DELETED", "/a/b"),
        ("CHANGED", "/a"),
    ]


async def test_a_session_sees_its_own_events_first(zookeeper: Connection) -> None:
    await zookeeper.request(AddWatch("/"))
    await zookeeper.request(Create("/a"))
    assert zookeeper.events == [("CREATED", "/a")]


# --- limits --------------------------------------------------------------------------------


async def test_a_request_too_large_ends_the_connection(zookeeper: Connection) -> None:
    with pytest.raises(ConnectionBroke):
        await zookeeper.request(Create("/large", b"x" * (MAX_REQUEST_BYTES + 1)))
