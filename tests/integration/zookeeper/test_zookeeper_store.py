"""The transactions: locks that others contend for, and a ledger that cannot drift."""

import asyncio
import json
import random
import time
from contextlib import suppress
from typing import Any

import pytest
from harness.proxy import Proxy
from harness.requestor import NODES, REQUEST_LOCKS, REQUESTS

from nodepool_k8s.errors import Conflict, ConnectionLost, Held, NotHeld, SessionLost, Vanished
from nodepool_k8s.model import Node, NodeRequest, NodeState, RequestState, Resources
from nodepool_k8s.znodes.encoding import DRIVER_KEY
from nodepool_k8s.znodes.paths import ledger_path
from nodepool_k8s.znodes.requests import parse_request
from nodepool_k8s.zookeeper import locks
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper.ledger import AtQuota, LedgerChange
from nodepool_k8s.zookeeper.mirror import Kind
from nodepool_k8s.zookeeper.operations import Delete, SetData
from nodepool_k8s.zookeeper.store import Claim
from tests.integration.zookeeper.conftest import Actor, NewActor
from tests.integration.zookeeper.test_zookeeper_client import credentials, end_session
from tests.support.waiting import eventually
from tests.support.zuul import LedgerWatch, Recorder, Zuul

pytestmark = pytest.mark.integration

POOL = ("local", "main")
ONE = Resources.of(instances=1)


async def a_request(actor: Actor, zuul: Zuul) -> NodeRequest:
    """A request as the mirror has it."""
    request_id = await zuul.submit("pod")
    data, stat = await actor.client.get(f"{REQUESTS}/{request_id}")
    return parse_request(request_id, data, stat.version)


def pending(request: NodeRequest) -> NodeRequest:
    fields = {"state": RequestState.PENDING, "state_time": time.time()}
    return request.__class__(**{**_fields(request), **fields})


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


LEDGER = ledger_path(*POOL)


def entry(most: int) -> LedgerChange:
    return LedgerChange(
        LEDGER, ONE, lambda claimed: claimed.amount("instances") + 1000 <= most * 1000
    )


async def claim(
    actor: Actor, request: NodeRequest, most: int = 10, amount: Resources = ONE
) -> Claim:
    """Claim a request with one node for it, as a pool's queue does."""
    own = {DRIVER_KEY: {"type": "pod"}}
    draft = Node("", NodeState.INIT, ("pod",), *POOL, allocated_to=request.id, driver_data=own)
    drafts = await actor.store.draft_nodes([draft])
    nodes = [
        HeldNode(each, "").evolve(state=NodeState.BUILDING, claimed=ONE).node for each in drafts
    ]
    try:
        return await actor.store.claim(pending(request), nodes, [entry(most)])
    except Conflict:
        await actor.store.drop_drafts(drafts)
        raise


# --- locks, with kazoo's own on the other side -------------------------------------------------


async def test_a_request_that_somebody_holds_cannot_be_claimed(actor: Actor, zuul: Zuul) -> None:
    request = await a_request(actor, zuul)
    lock = await zuul.lock(f"{REQUEST_LOCKS}/{request.id}")
    with pytest.raises(Held):
        await claim(actor, request)
    assert not await zuul.nodes()
    await zuul.unlock(lock)
    await claim(actor, request)  # Its lock's parent is still there.


async def test_a_claimed_request_is_locked_for_others(actor: Actor, zuul: Zuul) -> None:
    request = await a_request(actor, zuul)
    made = await claim(actor, request)
    for path in (f"{REQUEST_LOCKS}/{request.id}", f"{NODES}/{made.nodes[0].node.id}/lock"):
        with pytest.raises(Held):
            await locks.acquire(actor.client, path)
        assert not await asyncio.to_thread(zuul.kazoo.Lock(path).acquire, False)


async def test_two_launchers_do_not_claim_one_request(new_actor: NewActor, zuul: Zuul) -> None:
    actors = [await new_actor() for _ in range(3)]
    for _ in range(10):
        request = await a_request(actors[0], zuul)
        results = await asyncio.gather(
            *(claim(actor, request, 1000) for actor in actors), return_exceptions=True
        )
        assert sum(isinstance(result, Claim) for result in results) == 1
    assert await zuul.ledgers() == await zuul.sums()


async def test_a_request_revised_since_it_was_read_is_not_claimed(actor: Actor, zuul: Zuul) -> None:
    request = await a_request(actor, zuul)
    record = await zuul.request(request.id)
    assert record is not None
    await zuul.put(f"{REQUESTS}/{request.id}", {**record, "relative_priority": 1})
    with pytest.raises(Conflict):
        await claim(actor, request)
    assert not await zuul.nodes()


async def test_a_request_that_somebody_holds_is_not_rewritten(actor: Actor, zuul: Zuul) -> None:
    request = await a_request(actor, zuul)
    lock = await zuul.lock(f"{REQUEST_LOCKS}/{request.id}")
    with pytest.raises(Held):
        await actor.store.rewrite_request(pending(request))
    await zuul.unlock(lock)
    await actor.store.rewrite_request(pending(request))
    assert not await zuul.children(REQUEST_LOCKS)


async def test_a_node_that_somebody_uses_is_not_taken(actor: Actor, zuul: Zuul) -> None:
    request = await a_request(actor, zuul)
    made = await claim(actor, request)
    node_id = made.nodes[0].node.id
    await release(actor, made)
    lock = await zuul.lock(f"{NODES}/{node_id}/lock")
    with pytest.raises(Held):
        await actor.store.take_node(node_id, lambda node: node)
    await zuul.unlock(lock)
    held = await actor.store.take_node(node_id, lambda node: node)
    assert held is not None
    await actor.store.remove_node(held)
    assert not await zuul.nodes()
    assert await zuul.ledgers() == {"local/main": {}}


async def release(actor: Actor, made: Claim) -> None:
    """Hand over."""
    fulfilled = NodeRequest(**{**_fields(made.request), "state": RequestState.FULFILLED})
    await actor.store.hand_over(made, fulfilled, made.nodes, len(made.nodes))


async def test_removal_is_retried_after_a_contender_leaves(actor: Actor, zuul: Zuul) -> None:
    request = await a_request(actor, zuul)
    made = await claim(actor, request)
    held = await actor.store.write_node(made.nodes[0].move_to(NodeState.DELETING, 1.0))
    contender = asyncio.ensure_future(zuul.lock(f"{NODES}/{held.node.id}/lock"))

    async def contends() -> bool:
        return len(await zuul.children(f"{NODES}/{held.node.id}/lock")) == 2

    await eventually(contends, "a contender")
    with pytest.raises(Held):
        await actor.store.remove_node(held)
    lock = await contender
    record = await zuul.node(held.node.id)
    assert record is not None
    assert record["state"] == "deleted"
    await zuul.unlock(lock)
    again = await actor.store.take_node(held.node.id, lambda node: node)
    assert again is not None
    await actor.store.remove_node(again)
    assert await zuul.ledgers() == {"local/main": {}}


async def test_an_empty_node_that_a_contender_left_is_removed(actor: Actor, zuul: Zuul) -> None:
    await zuul.create(f"{NODES}/0000000007/lock", b"", makepath=True)
    await eventually(lambda: "0000000007" in actor.mirror.empty_nodes, "it is seen")
    await actor.store.drop_empty_node("0000000007")
    assert not await zuul.children(NODES)


async def test_an_empty_node_that_is_contended_for_stays(actor: Actor, zuul: Zuul) -> None:
    lock = await zuul.lock(f"{NODES}/0000000007/lock")
    await eventually(lambda: "0000000007" in actor.mirror.empty_nodes, "it is seen")
    await actor.store.drop_empty_node("0000000007")
    assert await zuul.children(NODES) == ["0000000007"]
    await zuul.unlock(lock)


async def test_who_lost_his_lock_writes_nothing(actor: Actor, zuul: Zuul) -> None:
    request = await a_request(actor, zuul)
    made = await claim(actor, request)
    held = made.nodes[0]
    await zuul.delete(held.lock)
    for attempt in (actor.store.write_node(held), actor.store.remove_node(held)):
        with pytest.raises((NotHeld, SessionLost)):
            await attempt
    await zuul.delete(made.lock)
    with pytest.raises((NotHeld, SessionLost)):
        await actor.store.give_back(made, request)
    record = await zuul.request(request.id)
    assert record is not None
    assert record["state"] == "pending"


async def test_a_request_that_went_cannot_be_ended(actor: Actor, zuul: Zuul) -> None:
    request = await a_request(actor, zuul)
    made = await claim(actor, request)
    await zuul.cancel(request.id)
    with pytest.raises(Vanished):
        await actor.store.give_back(made, request)
    await actor.store.abandon_request(made)
    assert not await zuul.children(REQUEST_LOCKS)


# --- the quota ledger -------------------------------------------------------------------------


async def test_a_full_ledger_refuses_and_leaves_nothing(actor: Actor, zuul: Zuul) -> None:
    await claim(actor, await a_request(actor, zuul), most=1)
    with pytest.raises(AtQuota):
        await claim(actor, await a_request(actor, zuul), most=1)
    assert len(await zuul.nodes()) == 1
    with pytest.raises(AtQuota):
        await actor.store.ledgers.require_room([entry(1)])
    await actor.store.ledgers.require_room([entry(2)])


CLAIMS = 200
MOST = 8


def less_than(requests: list[NodeRequest], number: int) -> Any:
    return lambda: len(requests) < number or not requests


async def test_totals_never_drift_and_never_exceed_whatever_dies(
    new_actor: NewActor, zuul: Zuul
) -> None:
    """Three launchers claim and remove at random, and lose their sessions in the midst of it."""
    chance = random.Random(4711)
    actors = [await new_actor() for _ in range(3)]
    requests = [await a_request(actors[0], zuul) for _ in range(CLAIMS)]
    held: list[tuple[Actor, HeldNode]] = []
    watch = LedgerWatch(zuul.hosts, "main")
    watch.start()

    async def work(actor: Actor) -> None:
        while requests:
            mine = [entry for entry in held if entry[0] is actor]
            try:
                if mine and (len(held) >= MOST or chance.random() < 0.4):
                    entry = chance.choice(mine)
                    held.remove(entry)
                    await actor.store.remove_node(entry[1])
                else:
                    made = await claim(actor, requests.pop(), MOST)
                    held.extend((actor, node) for node in made.nodes)
            except ConnectionLost:
                # Its session ended: what it held belongs to nobody.
                held[:] = [entry for entry in held if entry[0] is not actor]
                await actor.client.wait_connected()
                await reap(actor, zuul)
            except Conflict:
                await asyncio.sleep(0)

    async def trouble() -> None:
        while len(requests) > 5:
            before = len(requests)
            client_id = credentials(chance.choice(actors))
            if client_id is not None:
                await end_session(client_id, zuul)
            await eventually(less_than(requests, before - 10), "claims go on")

    async with Recorder(watch.look) as recorder:
        await asyncio.gather(trouble(), *(work(actor) for actor in actors))
    watch.stop()
    assert not watch.differences
    assert recorder.maximum <= MOST
    assert recorder.looks > 10
    assert await zuul.ledgers() == {"local/main": (await zuul.sums()).get("local/main", {})}


async def reap(actor: Actor, zuul: Zuul) -> None:
    """Remove nodes that nobody holds, as upkeep does; others do the same at the same time."""
    for node_id, record in (await zuul.nodes()).items():
        if record["state"] != "building":
            continue
        with suppress(Conflict, ConnectionLost):
            taken = await actor.store.take_node(node_id, lambda node: node)
            if taken is not None:
                await actor.store.remove_node(taken)


async def test_a_record_removed_behind_our_back_is_found(actor: Actor, zuul: Zuul) -> None:
    made = [await claim(actor, await a_request(actor, zuul)) for _ in range(2)]
    node_id = made[0].nodes[0].node.id
    for path in (made[0].nodes[0].lock, f"{NODES}/{node_id}/lock", f"{NODES}/{node_id}"):
        await zuul.delete(path)
    await eventually(lambda: node_id not in actor.mirror.nodes, "seen")
    correction = await actor.store.ledgers.reconcile(LEDGER)
    assert correction is not None
    assert correction.numbers() == {"instances": -1}
    assert await zuul.ledgers() == {"local/main": {"instances": 1000}}
    assert await actor.store.ledgers.reconcile(LEDGER) is None


async def test_reconciling_during_claims_never_undercounts(new_actor: NewActor, zuul: Zuul) -> None:
    claiming, counting = await new_actor(), await new_actor()
    watch = LedgerWatch(zuul.hosts, "main")
    watch.start()
    done = asyncio.Event()

    async def claim_all() -> None:
        for _ in range(60):
            made = await claim(claiming, await a_request(claiming, zuul), 1000)
            if chance.random() < 0.5:
                await claiming.store.remove_node(made.nodes[0])
        done.set()

    async def count() -> None:
        while not done.is_set():
            assert await counting.store.ledgers.reconcile(LEDGER) is None

    chance = random.Random(7)
    async with Recorder(watch.look):
        await asyncio.gather(claim_all(), count())
    watch.stop()
    assert not watch.differences
    assert await zuul.ledgers() == await zuul.sums()


@pytest.mark.parametrize(
    "junk", [b"{", b"[]", b'{"claimed": 5}', b'{"claimed": {"instances": 0.5}}']
)
async def test_a_ledger_of_junk_is_counted_anew(actor: Actor, zuul: Zuul, junk: bytes) -> None:
    await claim(actor, await a_request(actor, zuul))
    await zuul.put("/nodepool-k8s/ledger/local/main", junk)
    actor.mirror.ledgers.clear()
    await claim(actor, await a_request(actor, zuul))
    assert await zuul.ledgers() == {"local/main": {"instances": 2000}}


async def test_a_ledger_somebody_removed_is_counted_anew(actor: Actor, zuul: Zuul) -> None:
    await claim(actor, await a_request(actor, zuul))
    await zuul.delete("/nodepool-k8s/ledger/local/main")
    await claim(actor, await a_request(actor, zuul))
    assert await zuul.ledgers() == {"local/main": {"instances": 2000}}


# --- answers that are lost --------------------------------------------------------------------


@pytest.mark.parametrize("arrives", [True, False])
async def test_claims_and_removals_over_lost_connections_happen_once(
    proxied: Actor, proxy: Proxy, zuul: Zuul, arrives: bool
) -> None:
    request = await a_request(proxied, zuul)
    own = {DRIVER_KEY: {"type": "pod"}}
    draft = Node("", NodeState.INIT, ("pod",), *POOL, driver_data=own)
    (node,) = await proxied.store.draft_nodes([draft])
    building = HeldNode(node, "").evolve(state=NodeState.BUILDING, claimed=ONE).node
    await proxied.store.ledgers.require_room([entry(5)])
    made = await broken(
        proxy, proxied, arrives, proxied.store.claim(pending(request), [building], [entry(5)])
    )
    assert await zuul.ledgers() == await zuul.sums() == {"local/main": {"instances": 1000}}
    await broken(proxy, proxied, arrives, proxied.store.remove_node(made.nodes[0]))
    assert await zuul.ledgers() == {"local/main": {}}
    assert not await zuul.nodes()


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_refusal_over_a_broken_connection_is_written(
    proxied: Actor, proxy: Proxy, zuul: Zuul, arrives: bool
) -> None:
    request = await a_request(proxied, zuul)
    failed = NodeRequest(**{**_fields(request), "state": RequestState.FAILED})
    await broken(proxy, proxied, arrives, proxied.store.rewrite_request(failed))
    record = await zuul.request(request.id)
    assert record is not None
    assert record["state"] == "failed"


async def broken(proxy: Proxy, actor: Actor, arrives: bool, work: Any) -> Any:
    """Do it over a connection that loses the answer, or all of it, and comes back."""
    if arrives:
        proxy.lose_answers()
        task = asyncio.ensure_future(work)
        await proxy.lost_answer.wait()
        await proxy.refuse()
    else:
        await proxy.refuse()
        task = asyncio.ensure_future(work)
        await eventually(lambda: not actor.client.connected, "the connection is lost")
    proxy.restore()
    return await task


# --- what happened while nobody listened ------------------------------------------------------


async def test_the_mirror_tells_of_what_changed_while_it_was_away(
    proxied: Actor, proxy: Proxy, zuul: Zuul
) -> None:
    node = await zuul.create(f"{NODES}/", {"state": "in-use", "type": ["pod"]}, sequence=True)
    node_id = node.rpartition("/")[2]
    node_lock = await zuul.lock(f"{node}/lock")
    gone, locked = [await zuul.submit("pod") for _ in range(2)]
    request_lock = await zuul.lock(f"{REQUEST_LOCKS}/{locked}")
    await eventually(lambda: proxied.mirror.request_locked(locked), "all is seen")
    await proxied.store.ledgers.require_room([entry(1)])
    ledger = ledger_path(*POOL)

    told: set[tuple[Kind, str]] = set()
    proxied.mirror.listen(lambda kind, name: told.add((kind, name)))
    await proxy.refuse()
    await eventually(lambda: not proxied.client.connected, "nobody listens")
    await zuul.unlock(node_lock)
    await zuul.unlock(request_lock)
    await zuul.cancel(gone)
    new = await zuul.submit("pod")
    await zuul.put(ledger, json.loads('{"claimed": {"instances": 5000}}'))
    proxy.restore()
    await proxied.client.wait_connection_after(1)
    await proxied.mirror.load()
    assert told >= {
        (Kind.NODE_LOCK, node_id),
        (Kind.REQUEST_LOCK, locked),
        (Kind.REQUEST, gone),
        (Kind.REQUEST, new),
        (Kind.LEDGER, ledger),
    }
    assert not proxied.mirror.node_locked(node_id)
    assert gone not in proxied.mirror.requests


async def test_the_mirror_is_what_is_there_after_a_storm(new_actor: NewActor, zuul: Zuul) -> None:
    one = await new_actor()
    chance = random.Random(1)
    paths: list[str] = []
    for _ in range(300):
        if paths and chance.random() < 0.3:
            await one.client.transaction([Delete(paths.pop(chance.randrange(len(paths))))])
        elif paths and chance.random() < 0.5:
            path = chance.choice(paths)
            _, stat = await one.client.get(path)
            data = json.dumps({"state": "used", "pool": str(chance.random())}).encode()
            await one.client.transaction([SetData(path, data, stat.version)])
        else:
            paths.append(await one.client.create_sequence(f"{NODES}/", b'{"state": "ready"}'))
    known = {path.rpartition("/")[2] for path in paths}
    await eventually(lambda: set(one.mirror.nodes) == known, "caught up")
    other = await new_actor()

    def same() -> bool:
        return {name: node.pool for name, node in one.mirror.nodes.items()} == {
            name: node.pool for name, node in other.mirror.nodes.items()
        }

    await eventually(same, "both know the same")
