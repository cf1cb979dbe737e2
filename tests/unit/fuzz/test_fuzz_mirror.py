"""The mirror of ZooKeeper against a ZooKeeper of the test's own, with whatever is written there.

Changes, their events and the answers to reads come in every order that ZooKeeper allows: an
event is heard before an answer that is newer than it. Whenever anybody is told of anything,
and after each step, the sums and indexes are what counting the nodes anew gives; when all has
been heard, the mirror is what is there.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nodepool_k8s.errors import MalformedRecord, Vanished
from nodepool_k8s.model import MIN_READY, Node, NodeState, RequestState, Resources
from nodepool_k8s.znodes import paths
from nodepool_k8s.znodes.components import parse_component
from nodepool_k8s.znodes.encoding import DRIVER_KEY
from nodepool_k8s.znodes.nodes import encode_node, has_driver_data, parse_node, without_secrets
from nodepool_k8s.znodes.paths import (
    ledger_path,
    node_lock_path,
    node_path,
    request_lock_path,
    tenant_ledger_path,
)
from nodepool_k8s.znodes.requests import parse_request
from nodepool_k8s.zookeeper.client import Stat, ZooKeeperClient
from nodepool_k8s.zookeeper.mirror import Kind, Mirror
from tests.support.fuzzing import fuzzed, texts, values

# --- what is written there ---------------------------------------------------------------------

NODE_IDS = st.sampled_from([f"{number:010}" for number in range(4)])
REQUEST_IDS = st.sampled_from(["100-0000000001", "200-0000000002", "nonsense"])
POOL_IDS = st.sampled_from(["host-1", "host-2"])
LABELS = st.sampled_from(["pod", "other", ""])
NAMES = st.sampled_from(["a", "b", "a/b", "", "\ud800", "é"])
AMOUNTS = st.dictionaries(
    st.sampled_from(["instances", "cores", "ram"]), st.integers(0, 5000) | values, max_size=3
)
OWN = st.fixed_dictionaries(
    {}, optional={"claimed": AMOUNTS | values, "tenant": NAMES | values, "reason": texts}
)


def bytes_of(record: object) -> bytes:
    return json.dumps(record).encode()


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(usual, usual, usual, values)


NODES = st.fixed_dictionaries(
    {"state": st.sampled_from(NodeState).map(str)},
    optional={
        "type": mostly(st.lists(LABELS, max_size=2)),
        "provider": mostly(NAMES),
        "pool": mostly(NAMES),
        "allocated_to": mostly(st.none() | REQUEST_IDS),
        "tenant_name": mostly(NAMES),
        "requestor": mostly(st.sampled_from([MIN_READY, "zuul"])),
        "resources": mostly(AMOUNTS),
        "state_time": mostly(st.integers(0, 9)),
        "driver_data": mostly(st.fixed_dictionaries({DRIVER_KEY: mostly(OWN)})),
        "user_data": values,
    },
).map(bytes_of)
REQUESTS = st.fixed_dictionaries(
    {
        "state": mostly(st.sampled_from(RequestState).map(str)),
        "node_types": mostly(st.lists(LABELS, max_size=2)),
    },
    optional={"provider": mostly(NAMES), "relative_priority": values, "declined_by": values},
).map(bytes_of)
COMPONENTS = st.fixed_dictionaries(
    {"id": mostly(texts)},
    optional={"supported_labels": values, "priority": values, "name": values, "paused": values},
).map(bytes_of)
JUNK = st.one_of(st.just(b""), st.binary(max_size=8), values.map(bytes_of))

ZNODES: tuple[tuple[str, st.SearchStrategy[str], st.SearchStrategy[bytes]], ...] = (
    (paths.NODES, NODE_IDS, NODES),
    (paths.NODES, NODE_IDS, NODES),
    (paths.REQUESTS, REQUEST_IDS, REQUESTS),
    (paths.POOL_COMPONENTS, POOL_IDS, COMPONENTS),
)


@st.composite
def _path_and_data(draw: st.DrawFn) -> tuple[str, bytes]:
    root, ids, data = ZNODES[draw(st.integers(0, len(ZNODES) - 1))]
    return f"{root}/{draw(ids)}", draw(data | data | JUNK)


PATHS_AND_DATA = _path_and_data()
CONTENDERS = st.sampled_from([f"c{number}{paths.LOCK_INFIX}{number:010}" for number in range(2)])
LOCKS = st.one_of(
    st.builds(lambda name, who: f"{node_lock_path(name)}/{who}", NODE_IDS, CONTENDERS),
    st.builds(lambda name, who: f"{request_lock_path(name)}/{who}", REQUEST_IDS, CONTENDERS),
)
CHANGES = PATHS_AND_DATA | st.tuples(PATHS_AND_DATA.map(lambda pair: pair[0]) | LOCKS, st.none())


class Pause:
    """A moment in which anything may happen."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Tree:
    """A ZooKeeper with one client, and what is on its way to that."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}
        self.callback: Callable[[str, str], None] = lambda event, path: None
        self.events: list[tuple[int, str, str]] = []
        self.happened = 0
        self.connection = 0
        self.meanwhile: list[tuple[str, bytes | None]] = []
        """Changes that happen while the mirror lists everything."""

    # --- the client's side

    def on_event(self, callback: Callable[[str, str], None]) -> None:
        self.callback = callback

    async def watch_recursively(self, path: str) -> None:
        await self._asked()

    async def get(self, path: str) -> tuple[bytes, Stat]:
        return cast("tuple[bytes, Stat]", await self._answer(lambda: self._get(path)))

    async def children(self, path: str) -> list[str]:
        return cast("list[str]", await self._answer(lambda: self._children(path)))

    async def _answer(self, read: Callable[[], Any]) -> Any:
        while True:
            connection = self.connection
            await self._asked()
            answer, known = read(), self.happened
            await Pause()
            if connection == self.connection:
                # The connection is one stream: what happened before the answer is heard first.
                self.deliver_until(known)
                if isinstance(answer, Exception):
                    raise answer
                return answer

    async def _asked(self) -> None:
        await Pause()
        if self.meanwhile:
            self.change(*self.meanwhile.pop())

    def _get(self, path: str) -> tuple[bytes, Stat] | Exception:
        if path not in self.data:
            return Vanished(path)
        return self.data[path], Stat(self.versions[path])

    def _children(self, path: str) -> list[str] | Exception:
        inside = {name[len(path) + 1 :].split("/")[0] for name in self.under(path)}
        if not inside and path.endswith("/lock"):
            return Vanished(path)
        return sorted(inside)

    # --- everybody else's

    def under(self, path: str) -> list[str]:
        return [name for name in self.data if name.startswith(path + "/")]

    def change(self, path: str, data: bytes | None) -> None:
        """Write a znode, or remove it with all below it (None)."""
        if data is None:
            for name in [*sorted(self.under(path), reverse=True), path]:
                if self.data.pop(name, None) is not None:
                    self._happens("DELETED", name)
            return
        self._happens("CHANGED" if path in self.data else "CREATED", path)
        self.versions[path] = self.versions[path] + 1 if path in self.data else 0
        self.data[path] = data

    def _happens(self, event: str, path: str) -> None:
        self.happened += 1
        self.events.append((self.happened, event, path))

    def deliver_until(self, number: int) -> None:
        while self.events and self.events[0][0] <= number:
            _, event, path = self.events.pop(0)
            self.callback(event, path)

    def cut(self) -> None:
        """The connection is lost, with what was on its way."""
        self.events.clear()
        self.connection += 1


class Mirrors(RuleBasedStateMachine):
    """What happens to a mirror."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = Tree()
        self.tasks: list[Coroutine[Any, Any, None]] = []
        self.mirror = Mirror(cast(ZooKeeperClient, self.tree), cast(Any, self.spawn))
        self.mirror.listen(self.told)
        self.owned: set[str] = set()
        self.gone: set[str] = set()
        logging.disable(logging.WARNING)

    def teardown(self) -> None:
        logging.disable(logging.NOTSET)
        for task in self.tasks:
            task.close()

    def spawn(self, name: str, task: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(task)

    def told(self, kind: Kind, name: str) -> None:
        check(self.mirror)

    @rule(change=CHANGES)
    def somebody_writes(self, change: tuple[str, bytes | None]) -> None:
        path, data = change
        # What this launcher holds nobody else writes; anybody may remove it.
        if path in self.owned and data is None:
            # Numbers of nodes do not come back.
            self.gone.add(path)
        if path not in self.owned | self.gone or data is None:
            self.tree.change(path, data)

    @rule(path=LOCKS)
    def somebody_contends(self, path: str) -> None:
        if path not in self.tree.data:
            self.tree.change(path, b"")

    @rule(number=st.integers(1, 4))
    def events_arrive(self, number: int) -> None:
        for _ in range(min(number, len(self.tree.events))):
            self.tree.deliver_until(self.tree.events[0][0])

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def a_read_goes_on(self, data: st.DataObject) -> None:
        self.go_on(data.draw(st.sampled_from(range(len(self.tasks)))))

    def go_on(self, number: int) -> None:
        task = self.tasks.pop(number)
        try:
            task.send(None)
        except StopIteration:
            return
        self.tasks.append(task)

    @rule(node_id=NODE_IDS, data=NODES)
    def this_launcher_takes_a_node(self, node_id: str, data: bytes) -> None:
        path = node_path(node_id)
        if path in self.tree.data:
            self.mirror.own(path)
            self.owned.add(path)

    @rule(node_id=NODE_IDS, data=NODES)
    def this_launcher_writes_its_node(self, node_id: str, data: bytes) -> None:
        path = node_path(node_id)
        if path in self.owned and path in self.tree.data:
            try:
                node = parse_node(node_id, data, 0)
            except MalformedRecord:
                return
            self.tree.change(path, encode_node(node))
            # Gone while the answer was on its way is heard of later.
            self.mirror.put_node(
                parse_node(node_id, self.tree.data[path], self.tree.versions[path])
            )

    @rule(node_id=NODE_IDS)
    def this_launcher_lets_go_of_its_node(self, node_id: str) -> None:
        path = node_path(node_id)
        if path in self.owned:
            self.owned.discard(path)
            self.mirror.reread(path)

    @rule(node_id=NODE_IDS, data=NODES, others=st.lists(CHANGES, max_size=2), heard=st.booleans())
    def this_launcher_drafts_a_node(
        self, node_id: str, data: bytes, others: list[tuple[str, bytes | None]], heard: bool
    ) -> None:
        path = node_path(node_id)
        if path in self.tree.data or path in self.gone:
            return
        with self.mirror.drafting() as created:
            self.tree.change(path, data)
            for other, written in others:
                if other != path:
                    self.somebody_writes((other, written))
            if heard:
                self.tree.deliver_until(self.tree.happened)
            created.append(path)
        self.owned.add(path)

    @rule(changes=st.lists(CHANGES, max_size=5), lost=st.lists(CHANGES, max_size=3))
    def the_connection_is_lost(
        self,
        changes: list[tuple[str, bytes | None]],
        lost: list[tuple[str, bytes | None]],
    ) -> None:
        """Changes that nobody hears of, and then more while everything is listed."""
        for change in lost:
            self.somebody_writes(change)
        self.tree.cut()
        self.tree.meanwhile = [
            change for change in changes if change[0] not in self.owned | self.gone
        ]
        asyncio.run(self.mirror.load())
        self.tree.meanwhile = []

    @rule()
    def all_is_heard(self) -> None:
        while self.tree.events or self.tasks:
            self.tree.deliver_until(self.tree.happened)
            if self.tasks:
                self.go_on(0)
        for path in sorted(self.owned):
            self.owned.discard(path)
            self.mirror.reread(path)
        while self.tree.events or self.tasks:
            self.tree.deliver_until(self.tree.happened)
            if self.tasks:
                self.go_on(0)
        compare(self.mirror, self.tree)

    @invariant()
    def counts_are_right(self) -> None:
        check(self.mirror)


# --- what is to be true --------------------------------------------------------------------------


def check(mirror: Mirror) -> None:
    """Count all nodes anew, the simple way."""
    nodes = mirror.nodes.values()
    pools: dict[str, list[tuple[Node, Resources | None]]] = {}
    for node in nodes:
        if node.provider is not None and node.pool is not None:
            path = ledger_path(node.provider, node.pool)
            pools.setdefault(path, []).append((node, node.claimed))
        tenant = node.tenant_name if node.counted_for is None else node.counted_for
        if tenant is not None:
            counted = None if node.counted_for is None else node.claimed
            pools.setdefault(tenant_ledger_path(tenant), []).append((node, counted))
    for path in {*pools, *mirror._usage}:
        check_sums(mirror, path, pools.get(path, []))
    holders = {(node.provider, node.pool, node.tenant_name or "") for node in nodes}
    for provider, pool, tenant in holders:
        if provider is not None and pool is not None:
            held = mirror.held(ledger_path(provider, pool), tenant)
            assert held == total(
                foreign(node)
                for node in nodes
                if (node.provider, node.pool, node.tenant_name or "") == (provider, pool, tenant)
                and node.allocated_to is not None
                and node.requestor != MIN_READY
            )
    assert all(mirror._held.values())
    assert len(mirror._held) <= len(holders)
    for label in {node.type[0] for node in nodes if node.type}:
        unused = [node for node in nodes if node.unused and node.type[:1] == (label,)]
        assert {node.id for node in mirror.unused(label)} == {node.id for node in unused if label}
        ready = [node for node in nodes if node.state is NodeState.READY and node.type == (label,)]
        spare = [node for node in ready if node.unused or node.requestor == MIN_READY]
        assert mirror.spare(label) >= (len(spare) if label else 0)
    requests = {node.allocated_to for node in nodes if node.allocated_to}
    assert mirror._allocated.keys() == requests
    for request in requests:
        assert mirror.allocated_to(request) == {
            node.id for node in nodes if node.allocated_to == request
        }
    assert not mirror.empty_nodes & mirror.nodes.keys()
    assert all(mirror.node_locks.values())
    assert all(mirror.request_locks.values())


def check_sums(mirror: Mirror, path: str, counted: list[tuple[Node, Resources | None]]) -> None:
    usage = mirror.usage(path)
    claimed = [(node, amount) for node, amount in counted if amount is not None]
    leaving = [NodeState.USED, NodeState.FAILED, NodeState.DELETING]
    leaving += [NodeState.DELETED, NodeState.ABORTED]
    assert usage.claimed == total(amount for _, amount in claimed)
    assert usage.leaving == total(amount for node, amount in claimed if node.state in leaving)
    assert usage.foreign == total(foreign(node) for node, amount in counted if amount is None)
    for sums in (usage.claimed, usage.leaving, usage.foreign):
        assert all(amount > 0 for amount in sums.values())


def total(amounts: Any) -> Resources:
    return sum(amounts, Resources())


def foreign(node: Node) -> Resources:
    if node.claimed is not None:
        return node.claimed
    if has_driver_data(node):
        return Resources()
    return Resources.of(instances=1) if node.resources is None else node.resources


def compare(mirror: Mirror, tree: Tree) -> None:
    """All has been heard: the mirror is what is there."""
    expected: dict[str, dict[str, str]] = {paths.NODES: {}, paths.REQUESTS: {}}
    expected[paths.POOL_COMPONENTS] = {}
    empty = set()
    locks: dict[str, set[str]] = {}
    for path, data in tree.data.items():
        root, _, name = path.rpartition("/")
        if paths.LOCK_INFIX in name:
            locks.setdefault(root, set()).add(name)
            continue
        if not data and root == paths.NODES:
            empty.add(name)
        try:
            expected[root][name] = shown(root, name, data, tree.versions[path])
        except MalformedRecord:
            continue
    for root, known in (
        (paths.NODES, mirror.nodes),
        (paths.REQUESTS, mirror.requests),
        (paths.POOL_COMPONENTS, mirror.components),
    ):
        found = cast("dict[str, object]", known)
        assert {name: repr(record) for name, record in found.items()} == expected[root]
    assert mirror.empty_nodes == empty
    assert {node_lock_path(name): held for name, held in mirror.node_locks.items()} | {
        request_lock_path(name): held for name, held in mirror.request_locks.items()
    } == locks
    assert not mirror._reading
    assert mirror._reported.keys() <= tree.data.keys()


def shown(root: str, name: str, data: bytes, version: int) -> str:
    if root == paths.NODES:
        return repr(without_secrets(parse_node(name, data, version)))
    if root == paths.REQUESTS:
        return repr(parse_request(name, data, version))
    return repr(parse_component(name, data))


TestMirrors = Mirrors.TestCase
TestMirrors.settings = fuzzed(60, steps=30)


PIECES = st.sampled_from(
    [
        *(paths.NODES, paths.REQUESTS, paths.REQUEST_LOCKS, paths.POOL_COMPONENTS, paths.LEDGERS),
        *(paths.TENANT_LEDGERS, paths.MIN_READY_OWNERS, paths.OWN, "/", "", "/lock", "/0000000001"),
        *("/a__lock__0000000001", "__lock__", "/%zz", "/..", "\ud800", "/100-0000000001"),
    ]
)


@fuzzed(150)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["CREATED", "CHANGED", "DELETED", "CHILD", "NONE", ""]),
            st.lists(PIECES, max_size=4).map("".join),
        ),
        max_size=6,
    )
)
def test_no_event_is_too_odd(events: list[tuple[str, str]]) -> None:
    tree, tasks = Tree(), list[Coroutine[Any, Any, None]]()
    mirror = Mirror(cast(ZooKeeperClient, tree), cast(Any, lambda name, task: tasks.append(task)))
    for event, path in events:
        tree.callback(event, path)
        check(mirror)
    for task in tasks:
        asyncio.run(task)
    assert not mirror.nodes
    assert not mirror.requests
    assert not mirror.components
