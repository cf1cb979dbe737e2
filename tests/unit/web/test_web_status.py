"""The JSON of /api/status: its keys and units, which scripts of operators read."""

from nodepool_k8s.model import Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.snapshot import (
    LauncherSnapshot,
    LaunchingNode,
    PoolSnapshot,
    ProviderSnapshot,
    RecentFailure,
    ResourceUsage,
    ServedRequest,
    StuckDeletion,
    WaitingRequest,
    count_records,
)
from nodepool_k8s.web.status import status_document

SNAPSHOT = LauncherSnapshot(
    taken_at=1000.0,
    started_at=900.0,
    version="1.2.3",
    obstacles=("why",),
    pools=(
        PoolSnapshot(
            "local",
            "main",
            priority=50,
            labels=("a", "b"),
            paused=False,
            waiting=1,
            waits_for="quota",
            launching=1,
            resources=(ResourceUsage("cores", 1500, 4000), ResourceUsage("ram", 1000, None)),
        ),
    ),
    providers=(ProviderSnapshot("local", "kind", "", 1, 10, 3),),
    waiting_count=7,
    waiting=(WaitingRequest("200-1", "local/main", "zuul", ("a", "b"), 940.0, "its turn"),),
    in_flight_count=1,
    in_flight=(
        ServedRequest(
            "200-2",
            "local/main",
            "zuul",
            970.0,
            (LaunchingNode("7", "a", "main-7", NodeState.BUILDING, "its image", "it failed"),),
        ),
    ),
    failures=(RecentFailure(995.0, "200-3", None, ("a",), "no room"),),
    stuck=(StuckDeletion("main-9", "local", "9", 880.0, "a finalizer"),),
    records=count_records(
        [Node("1", NodeState.READY), Node("2", NodeState.INIT), Node("3", NodeState.READY)],
        [NodeRequest("200-1", RequestState.REQUESTED, ("a",))],
        [],
    ),
)


def test_every_key_of_the_document() -> None:
    document = status_document(SNAPSHOT)
    assert document == {
        "version": "1.2.3",
        "uptime": "00:00:01:40",
        "obstacles": ["why"],
        "pools": [
            {
                "pool": "local/main",
                "priority": 50,
                "labels": ["a", "b"],
                "paused": False,
                "waiting": 1,
                "waits_for": "quota",
                "resources": {
                    "cores": {"used": 1.5, "limit": 4},
                    "ram": {"used": 1, "limit": None},
                },
            }
        ],
        "providers": [
            {
                "provider": "local",
                "context": "kind",
                "in_touch": True,
                "trouble": "",
                "launches": 1,
                "max_concurrency": 10,
            }
        ],
        "nodes": {"init": 1, "ready": 2},
        "requests": {"requested": 1},
        "waiting_count": 7,
        "waiting": [
            {
                "request": "200-1",
                "pool": "local/main",
                "requestor": "zuul",
                "labels": ["a", "b"],
                "age": "00:00:01:00",
                "waits_for": "its turn",
            }
        ],
        "in_flight_count": 1,
        "in_flight": [
            {
                "request": "200-2",
                "pool": "local/main",
                "requestor": "zuul",
                "age": "00:00:00:30",
                "nodes": [
                    {
                        "node": "7",
                        "label": "a",
                        "namespace": "main-7",
                        "state": "building",
                        "waits_for": "its image",
                        "failure": "it failed",
                    }
                ],
            }
        ],
        "failures": [
            {
                "at": 995.0,
                "request": "200-3",
                "node": None,
                "labels": ["a"],
                "reason": "no room",
                "age": "00:00:00:05",
            }
        ],
        "stuck": [
            {
                "namespace": "main-9",
                "provider": "local",
                "node": "9",
                "age": "00:00:02:00",
                "reason": "a finalizer",
            }
        ],
    }
    # States come in the order in which a node enters them.
    assert list(document["nodes"]) == ["init", "ready"]
