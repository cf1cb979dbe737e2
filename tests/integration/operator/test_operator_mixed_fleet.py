"""Nodepool 11.0.0 and our launchers, side by side: same ZooKeeper, same cluster, same labels."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import peer
import pytest
from _pytest.capture import CaptureManager
from cluster import Progress
from harness.requestor import NODES, REQUESTS
from harness.zookeeper import Record
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from tests.support.admin import DEPLOYMENT, Admin
from tests.support.launchers import Launchers
from tests.support.peer import SESSION_S, Peers
from tests.support.site import (
    Options,
    Site,
    SiteMaker,
    manual_label,
    namespace_label,
    pod_label,
    spec_label,
)
from tests.support.waiting import eventually
from tests.support.zuul import Recorder, Zuul

pytestmark = pytest.mark.integration

OURS = "ours"
THEIRS = "theirs"


@pytest.fixture(scope="module")
def peer_environment(pytestconfig: pytest.Config) -> Path:
    """Nodepool's environment: installed the first time; where it can't be, that is an error."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert isinstance(capture, CaptureManager)
    with capture.global_and_fixture_disabled():
        return peer.environment(Progress())


@pytest.fixture
async def peers(
    peer_environment: Path, make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> AsyncIterator[Peers]:
    """Starts Nodepool's launchers; they are gone before ours are looked at."""
    peers = Peers(make_site, peer_environment, zuul, admin)
    yield peers
    await peers.clear()


class Fleet:
    """Both sides' providers, each with pools of its own."""

    def __init__(self, make_site: SiteMaker) -> None:
        self._make_site = make_site

    def provider(self, name: str, *pools: Options, **options: Any) -> Options:
        """A provider of one side. Pools without a name get one."""
        entries = [
            {"name": f"{self._make_site.pool}-{name}-{number}", **pool}
            for number, pool in enumerate(pools)
        ]
        return {"name": name, "pools": entries, **options}


@pytest.fixture
def fleet(make_site: SiteMaker) -> Fleet:
    return Fleet(make_site)


def pool(*labels: Options, **options: Any) -> Options:
    return {"labels": list(labels), **{name.replace("_", "-"): options[name] for name in options}}


OUR_LABEL = pod_label("node")
THEIR_LABEL = namespace_label("node")
"""One label to who asks: a namespace is what Nodepool makes fastest, a pod what we end fastest."""


async def node_of(zuul: Zuul, request_id: str) -> Record:
    request = await zuul.answered(request_id)
    node = await zuul.node(request["nodes"][0])
    assert node is not None
    return {**node, "id": request["nodes"][0]}


async def maker_of(zuul: Zuul, request_id: str) -> str:
    return str((await node_of(zuul, request_id))["provider"])


async def pools_of(zuul: Zuul, provider: str) -> list[Record]:
    return [entry for entry in await zuul.components() if entry["provider_name"] == provider]


# --- priorities: yielding and taking over ------------------------------------------------------


async def test_nodepool_yields_to_our_higher_pool_until_it_pauses(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, peers: Peers, fleet: Fleet
) -> None:
    higher = fleet.provider(OURS, pool(OUR_LABEL, priority=10, max_servers=1))
    lower = fleet.provider(THEIRS, pool(THEIR_LABEL, priority=20))
    theirs = peers.start_unready(lower)
    ours = await launchers.spawn(make_site.of([higher]))
    await theirs.ready()
    # Ours is there and answers late: they leave it alone.
    ours.send_signal(signal.SIGSTOP)
    first = await zuul.submit("node")
    await eventually(lambda: "to higher priority providers" in theirs.text(), "Nodepool yields")
    ours.send_signal(signal.SIGCONT)
    assert await maker_of(zuul, first) == OURS
    # Ours is full: they take over.
    second = await zuul.submit("node")
    assert await maker_of(zuul, second) == THEIRS
    # Ours has room again.
    await zuul.use_and_return(first)
    await eventually(lambda: has_room(zuul), "ours has room")
    third = await zuul.submit("node")
    assert await maker_of(zuul, third) == OURS
    # Ours leaves.
    assert await ours.terminate() == 0
    assert await maker_of(zuul, await zuul.submit("node")) == THEIRS


async def has_room(zuul: Zuul) -> bool:
    (ours,) = await pools_of(zuul, OURS)
    return not ours["paused"] and not any((await zuul.ledgers()).popitem()[1].values())


async def test_we_yield_to_nodepools_higher_pool_until_it_pauses(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, peers: Peers, fleet: Fleet
) -> None:
    higher = fleet.provider(THEIRS, pool(THEIR_LABEL, priority=10, max_servers=1))
    lower = fleet.provider(OURS, pool(OUR_LABEL, priority=20))
    theirs = peers.start_unready(higher)
    await launchers.start(make_site.of([lower]))
    await theirs.ready()
    first = await zuul.submit("node")
    assert await maker_of(zuul, first) == THEIRS
    # The second waits in their pool, which takes it before it counts; then it pauses.
    second = await zuul.submit("node")
    await zuul.answered(second, "requested", "pending")
    await eventually(lambda: they_pause(zuul), "their pool pauses")
    third = await zuul.submit("node")
    assert await maker_of(zuul, third) == OURS
    record = await zuul.request(second)
    assert record is not None
    assert record["state"] == "pending"
    # They die. What they had taken is ours when their session is over, their node is not.
    await theirs.kill()
    assert await maker_of(zuul, second) == OURS
    assert await maker_of(zuul, await zuul.submit("node")) == OURS
    kept = await node_of(zuul, first)
    assert kept["provider"] == THEIRS
    assert await peers.namespace(kept)


async def they_pause(zuul: Zuul) -> bool:
    return all(entry["paused"] for entry in await pools_of(zuul, THEIRS))


async def test_a_named_provider_overrides_priorities_in_both_fleets(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, peers: Peers, fleet: Fleet
) -> None:
    their_side = fleet.provider(
        THEIRS, pool(THEIR_LABEL, priority=10), pool(namespace_label("lower"), priority=20)
    )
    our_side = fleet.provider(
        OURS, pool(OUR_LABEL, priority=20), pool(pod_label("lower"), priority=10)
    )
    theirs = peers.start_unready(their_side)
    ours = await launchers.spawn(make_site.of([our_side]))
    await theirs.ready()
    ours.send_signal(signal.SIGSTOP)
    wanted = {
        await zuul.submit("node", provider=side): side for side in (OURS, THEIRS, THEIRS, OURS)
    }
    await eventually(lambda: f"Yielding request to provider {OURS}" in theirs.text(), "they yield")
    ours.send_signal(signal.SIGCONT)
    # Nodepool leaves what names its pool of lower priority to ours all the same.
    wanted[await zuul.submit("lower", provider=THEIRS)] = OURS
    for request_id, side in wanted.items():
        assert await maker_of(zuul, request_id) == side


# --- declining ---------------------------------------------------------------------------------


async def test_a_request_fails_only_when_both_sides_decline_it(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, peers: Peers, fleet: Fleet
) -> None:
    refused = {"containers": [{"name": "without-an-image"}]}
    our_side = fleet.provider(
        OURS,
        pool(OUR_LABEL, pod_label("only-ours"), max_servers=1),
        pool(spec_label(refused, "fails-here"), pod_label("fails-there"), priority=10),
        **{"launch-retries": 1},
    )
    their_side = fleet.provider(
        THEIRS,
        pool(THEIR_LABEL, namespace_label("only-theirs"), max_servers=3),
        pool(spec_label(refused, "fails-there"), pod_label("fails-here"), priority=9),
        **{"launch-retries": 1},
    )
    theirs = peers.start_unready(their_side)
    await launchers.start(make_site.of([our_side]))
    await theirs.ready()
    # Theirs is the first to try fails-there, for its priority; fails-here asks for ours.
    served = {
        await zuul.submit("node", "node"): THEIRS,
        await zuul.submit("only-ours"): OURS,
        await zuul.submit("only-theirs"): THEIRS,
        await zuul.submit("fails-there"): OURS,
        await zuul.submit("fails-here", provider=OURS): THEIRS,
    }
    failed = [
        await zuul.submit(*["node"] * 4),
        await zuul.submit("only-ours", "only-ours"),
        await zuul.submit(*["only-theirs"] * 4),
        await zuul.submit("only-ours", "only-theirs"),
        await zuul.submit("nonesuch"),
    ]
    everybody = sorted(entry["id"] for entry in await zuul.components())
    assert len(everybody) == 4
    for request_id, side in served.items():
        assert await maker_of(zuul, request_id) == side, await zuul.request(request_id)
    for request_id in failed:
        request = await zuul.answered(request_id, "failed")
        assert sorted(request["declined_by"]) == everybody


# --- sharing work --------------------------------------------------------------------------------


class Nodes:
    """Looks at all node records as often as it can: for whom each was made, and how many are."""

    def __init__(self, hosts: str) -> None:
        self._kazoo = KazooClient(hosts=hosts, timeout=30)
        self.made_for: dict[str, set[str]] = defaultdict(set)
        """The ids of the nodes that were seen for a request."""
        self.largest: dict[str, int] = defaultdict(int)
        """The most nodes that a provider had at one time."""

    async def __aenter__(self) -> Nodes:
        await asyncio.to_thread(self._kazoo.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._kazoo.stop)
        self._kazoo.close()

    def look(self) -> int:
        count: dict[str, int] = defaultdict(int)
        for node_id in self._kazoo.get_children(NODES):
            try:
                data = self._kazoo.get(f"{NODES}/{node_id}")[0]
            except NoNodeError:
                continue
            node = json.loads(data) if data else {"state": "init"}
            if node["state"] == "init":
                continue
            count[node["provider"]] += 1
            if node["allocated_to"]:
                self.made_for[node["allocated_to"]].add(node_id)
        for provider, number in count.items():
            self.largest[provider] = max(self.largest[provider], number)
        return sum(count.values())


async def test_a_burst_is_served_by_both_sides_within_their_limits(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, peers: Peers, fleet: Fleet
) -> None:
    theirs = peers.start_unready(fleet.provider(THEIRS, pool(THEIR_LABEL, max_servers=5)))
    site = make_site.of([fleet.provider(OURS, pool(OUR_LABEL, max_servers=5))])
    await asyncio.gather(theirs.ready(), launchers.start(site))
    async with Nodes(make_site.hosts) as nodes, Recorder(nodes.look):
        ids = [await zuul.submit("node") for _ in range(12)]
        await eventually(lambda: nodes.largest == {OURS: 5, THEIRS: 5}, "both at their limits")
        makers = dict(
            zip(ids, await asyncio.gather(*(serve(zuul, each) for each in ids)), strict=True)
        )
        assert set(makers.values()) == {OURS, THEIRS}
    assert nodes.largest == {OURS: 5, THEIRS: 5}
    assert {request_id: len(made) for request_id, made in nodes.made_for.items()} == dict.fromkeys(
        ids, 1
    )


async def serve(zuul: Zuul, request_id: str) -> str:
    async def answered() -> bool:
        request = await zuul.request(request_id)
        assert request is not None
        return bool(request["state"] == "fulfilled")

    await eventually(answered, f"request {request_id} fulfilled")
    maker = await maker_of(zuul, request_id)
    await zuul.use_and_return(request_id)
    return maker


# --- each to its own ---------------------------------------------------------------------------


async def test_each_side_removes_its_own_nodes_alone(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin, peers: Peers, fleet: Fleet
) -> None:
    their_side = fleet.provider(THEIRS, pool(THEIR_LABEL))
    site = make_site.of([fleet.provider(OURS, pool(OUR_LABEL))])
    theirs = peers.start_unready(their_side)
    ours = await launchers.start(site)
    await theirs.ready()
    requests = [await zuul.submit("node", provider=side) for side in (THEIRS, THEIRS, OURS, OURS)]
    their_node, their_other, our_node, our_other = [await node_of(zuul, each) for each in requests]
    await theirs.stop()
    await ours.stop()
    # Returned while nobody is there; the others stay ready, and their requests.
    for index in (0, 2):
        await zuul.use_and_return(requests[index])
    # Ours alone.
    leaked = f"{make_site.pool}-leaked"
    await admin.create_namespace(leaked, {DEPLOYMENT: await zuul.deployment()})
    ours = await launchers.start(site)
    await zuul.gone(our_node["id"])
    await eventually(lambda: is_gone(admin, leaked), "our upkeep looked for leaks")
    assert await stays(zuul, peers, their_node, "used")
    assert await stays(zuul, peers, their_other, "ready")
    await ours.stop()
    # Theirs alone.
    await zuul.use_and_return(requests[3])
    theirs = await peers.start(their_side)
    await zuul.gone(their_node["id"])
    await theirs.upkeep_done()
    assert await stays(zuul, peers, our_other, "used")
    # Both.
    await launchers.start(site)
    await zuul.gone(our_other["id"])
    assert await stays(zuul, peers, their_other, "ready")


async def test_our_killed_launcher_leaves_nodepools_nodes_alone(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, peers: Peers, fleet: Fleet
) -> None:
    """While it has a node that waits to be accepted, and launches another one."""
    theirs = peers.start_unready(fleet.provider(THEIRS, pool(THEIR_LABEL)))
    our_side = fleet.provider(OURS, pool(OUR_LABEL, manual_label("slow")))
    site = make_site.of([our_side], {"zookeeper-timeout": SESSION_S})
    ours = await launchers.spawn(site)
    await theirs.ready()
    their_node, our_node = [
        await node_of(zuul, await zuul.submit("node", provider=side)) for side in (THEIRS, OURS)
    ]
    launching = await zuul.submit("slow")
    (lost,) = await zuul.building(launching)
    await ours.kill()
    # Nodepool serves on, and looks around when what we held is free.
    assert await maker_of(zuul, await zuul.submit("node")) == THEIRS
    await eventually(lambda: left(zuul), "our session is over")
    await theirs.looked()
    assert await zuul.building(launching) == [lost]
    assert await stays(zuul, peers, our_node, "ready")
    # The next one of ours removes what was lost, and that alone.
    await launchers.start(site)
    await zuul.gone(lost)
    await zuul.building(launching)
    assert await stays(zuul, peers, our_node, "ready")
    assert await stays(zuul, peers, their_node, "ready")
    await zuul.cancel(launching)


async def left(zuul: Zuul) -> bool:
    return not await pools_of(zuul, OURS)


async def stays(zuul: Zuul, peers: Peers, node: Record, state: str) -> bool:
    """Whether a node is as its requestor left it."""
    record = await zuul.node(node["id"])
    return bool(record and record["state"] == state and await peers.namespace(record))


async def is_gone(admin: Admin, name: str) -> bool:
    found = await admin.namespace(name)
    return found is None or "deletionTimestamp" in found["metadata"]


# --- ready nodes -------------------------------------------------------------------------------


async def test_spare_nodes_of_both_sides_are_created_once(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, peers: Peers, fleet: Fleet
) -> None:
    keeping = {"labels": [{"name": "node", "min-ready": 2}, {"name": "other"}]}
    our_side = fleet.provider(OURS, pool(OUR_LABEL, pod_label("other")))
    theirs = peers.start_unready(fleet.provider(THEIRS, pool(THEIR_LABEL)), top=keeping)
    ours = await launchers.start(make_site.of([our_side]))
    await theirs.ready()
    # They ask, and either side serves it, mostly ours, which is quicker. Now and then they ask for
    # one too many, as what they have just freed is not in their cache yet.
    await eventually(lambda: spare_nodes(zuul), "two spare nodes")
    await theirs.looked()
    spare = await eventually(lambda: spare_nodes(zuul), "two spare nodes or more")
    # Now both keep two, and there they are.
    await ours.stop()
    ours = await launchers.start(make_site.of([our_side], top=keeping))
    await eventually(lambda: zuul.children("/nodepool-k8s/min-ready"), "ours has counted them")
    await maker_of(zuul, await zuul.submit("other"))
    await theirs.looked()
    assert await spare_nodes(zuul) == spare
    # All are taken, and replaced.
    makers = [node["provider"] for node in spare.values()]
    taken = [await node_of(zuul, await zuul.submit("node", provider=maker)) for maker in makers]
    assert spare.keys() == {node["id"] for node in taken}
    again = await eventually(lambda: spare_nodes(zuul), "two spare nodes again")
    assert {node["id"] for node in taken}.isdisjoint(again)
    await ours.stop()


async def spare_nodes(zuul: Zuul) -> dict[str, Record]:
    """The ready nodes that are nobody's, if there are two and no request for one more."""
    nodes = await zuul.nodes()
    found = {
        node_id: node
        for node_id, node in nodes.items()
        if node["state"] == "ready" and node["allocated_to"] is None
    }
    return found if len(found) >= 2 and not await asked_for_spare(zuul) else {}


async def asked_for_spare(zuul: Zuul) -> list[str]:
    return [name for name in await zuul.children(REQUESTS) if name.startswith("900-")]


# --- commands -----------------------------------------------------------------------------------


async def test_the_commands_of_each_side_read_what_the_other_wrote(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, peers: Peers, fleet: Fleet
) -> None:
    theirs = peers.start_unready(
        fleet.provider(THEIRS, pool(THEIR_LABEL, pod_label(), max_servers=2))
    )
    site = make_site.of([fleet.provider(OURS, pool(OUR_LABEL, pod_label(), max_servers=2))])
    await launchers.start(site)
    await theirs.ready()
    wanted = [(name, side) for name in ("node", "pod") for side in (OURS, THEIRS)]
    ids = [await zuul.submit(name, provider=side) for name, side in wanted]
    nodes = [await node_of(zuul, each) for each in ids]
    # One more for each, which waits.
    ids += [await zuul.submit("pod", provider=side) for side in (OURS, THEIRS)]
    await zuul.answered(ids[-1], "requested", "pending")
    await eventually(lambda: they_pause(zuul), "their pool pauses")
    their_list, their_requests, our_list, our_requests = await asyncio.gather(
        theirs.command("list", "--detail"),
        theirs.command("request-list"),
        command(site, "list"),
        command(site, "request-list"),
    )
    for node in nodes:
        (row,) = [line for line in their_list.splitlines() if node["external_id"] in line]
        (entry,) = [entry for entry in our_list if entry["id"] == node["id"]]
        assert node["provider"] in row
        assert node["provider"] == entry["provider"]
        assert "ready" in row
        assert entry["state"] == "ready"
    for request_id in ids:
        (row,) = [line for line in their_requests.splitlines() if request_id in line]
        (entry,) = [entry for entry in our_requests if entry["id"] == request_id]
        assert entry["state"] in row


async def command(site: Site, name: str) -> list[dict[str, Any]]:
    """What our command prints, as JSON."""
    argv = [sys.executable, "-m", "nodepool_k8s", name, "--json", "-c", str(site.path)]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    listed: list[dict[str, Any]] = json.loads(out)
    return listed
