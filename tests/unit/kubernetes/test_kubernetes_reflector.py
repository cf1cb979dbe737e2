"""The mirror: what it shows after every kind of event and accident."""

import asyncio
import json
import logging
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from nodepool_k8s.kubernetes import reflector
from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.parsing import pod_record
from nodepool_k8s.kubernetes.reflector import ObjectCache, Subscription
from nodepool_k8s.model import Pod

if TYPE_CHECKING:
    from tests.unit.kubernetes.fakeapi import (
        FakeApi,
        Watched,
        event,
        raw_namespace,
        raw_pod,
        status,
    )
else:
    from fakeapi import FakeApi, Watched, event, raw_namespace, raw_pod, status


class Scene:
    """A mirror on scripted collections."""

    def __init__(self, client: ApiClient) -> None:
        self.namespaces = Watched()
        self.pods = Watched()
        self.mirror = ObjectCache(client, "a=b")
        self.told: list[tuple[str, str]] = []
        self.touched: list[bool] = []
        self.mirror.subscribe(
            Subscription(
                pod_lost=lambda name: self.told.append(("lost", name)),
                namespace_appeared=lambda name: self.told.append(("appeared", name)),
                namespace_disappeared=lambda name: self.told.append(("disappeared", name)),
                touch_changed=lambda: self.touched.append(self.mirror.out_of_touch_since is None),
            )
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        collection = self.pods if request.path.endswith("/pods") else self.namespaces
        return await collection.answer(request)

    async def start(self) -> None:
        streams = (self.mirror.namespace_stream, self.mirror.pod_stream)
        self._tasks = [asyncio.ensure_future(stream.run()) for stream in streams]
        await asyncio.wait_for(self.mirror.synced(), 5)

    async def until(self, namespace: str, true: Callable[[], Any]) -> None:
        """Wait, woken by the mirror, until something is true."""
        async with asyncio.timeout(5):
            while not true():
                await self.mirror.changed(namespace, None)

    async def close(self) -> None:
        self.namespaces.closing.set()
        self.pods.closing.set()
        for task in self._tasks:
            assert not task.done(), task
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def scene(api: FakeApi, kube_config: Path) -> AsyncIterator[Scene]:
    client = ApiClient("ctx")
    await client.connect()
    made = Scene(client)
    api.handler = made.answer
    yield made
    await made.close()
    await client.close()


async def test_what_is_there_is_listed_in_pages(scene: Scene) -> None:
    scene.namespaces.lists = [[raw_namespace("a")], [raw_namespace("b")], [raw_namespace("c")]]
    scene.pods.lists = [[raw_pod("a")]]
    await scene.start()
    assert [namespace.name for namespace in scene.mirror.namespaces()] == ["a", "b", "c"]
    assert [pod.name for pod in scene.mirror.pods("a")] == ["fedora"]
    assert scene.mirror.pods("b") == ()
    assert scene.told == [("appeared", "a"), ("appeared", "b"), ("appeared", "c")]


async def test_events_change_the_mirror_and_wake_who_waits(scene: Scene) -> None:
    scene.pods.watches = [
        [
            event("ADDED", raw_pod("a", 5)),
            event("MODIFIED", raw_pod("a", 6, "Running", "True")),
            Watched.HOLD,
        ]
    ]
    await scene.start()
    await scene.until("a", lambda: [p.phase for p in scene.mirror.pods("a")] == ["Running"])
    assert scene.mirror.out_of_touch_since is None
    assert scene.told == []


async def test_a_change_wakes_only_its_own_namespace(scene: Scene) -> None:
    scene.pods.watches = [[event("ADDED", raw_pod("b", 5)), Watched.HOLD]]
    other = asyncio.ensure_future(scene.mirror.changed("a", None))
    await scene.start()
    await scene.until("b", lambda: scene.mirror.pods("b"))
    assert not other.done()
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    assert scene.mirror._waiters == {}


async def test_waiting_ends_with_its_timeout(scene: Scene) -> None:
    await scene.start()
    assert await scene.mirror.changed("a", 0.01) is False
    assert scene.mirror._waiters == {}


@pytest.mark.parametrize(
    "after",
    [
        event("DELETED", raw_pod("a", 7, "Running", "True")),
        event("MODIFIED", raw_pod("a", 7, "Failed")),
        event("MODIFIED", raw_pod("a", 7, "Running", "False")),
        event(
            "MODIFIED",
            raw_pod(
                "a",
                7,
                "Running",
                conditions=[
                    {"type": "Ready", "status": "True"},
                    {"type": "DisruptionTarget", "status": "True"},
                ],
            ),
        ),
    ],
)
async def test_a_lost_pod_is_told_at_once(scene: Scene, after: bytes) -> None:
    scene.pods.lists = [[raw_pod("a", 1, "Running", "True")]]
    scene.pods.watches = [[after, Watched.HOLD]]
    await scene.start()
    await scene.until("a", lambda: ("lost", "a") in scene.told)


async def test_a_namespace_that_goes_and_comes_back(scene: Scene) -> None:
    scene.namespaces.lists = [[raw_namespace("a", uid="1")]]
    scene.namespaces.watches = [
        [
            event("MODIFIED", raw_namespace("a", 5, uid="1", deletionTimestamp="now")),
            # The new one's event may overtake the old one's end in a relist, never here;
            # the mirror must not lose it whatever the order.
            event("ADDED", raw_namespace("a", 6, uid="2")),
            event("DELETED", raw_namespace("a", 7, uid="1")),
            event("ADDED", raw_namespace("z", 8)),
            Watched.HOLD,
        ]
    ]
    await scene.start()
    await scene.until("z", lambda: scene.mirror.namespace("z"))
    namespace = scene.mirror.namespace("a")
    assert namespace is not None
    assert namespace.uid == "2"


async def test_a_watch_that_ends_is_resumed_where_it_was(scene: Scene) -> None:
    bookmark = {"metadata": {"resourceVersion": "77"}}
    scene.pods.watches = [
        [event("ADDED", raw_pod("a", 5)), event("BOOKMARK", bookmark)],
        [event("ADDED", raw_pod("b", 78)), Watched.HOLD],
    ]
    await scene.start()
    await scene.until("b", lambda: scene.mirror.pods("b"))
    assert scene.pods.listed == 1
    assert [query["resourceVersion"] for query in scene.pods.watched] == ["1001", "77"]
    assert scene.pods.watched[0]["allowWatchBookmarks"] == "true"
    assert scene.pods.watched[0]["labelSelector"] == "a=b"


@pytest.mark.parametrize(
    "too_old",
    [
        status(410, "Expired", "too old resource version"),
        [event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})],
    ],
)
async def test_too_old_to_resume_lists_again(
    scene: Scene, too_old: web.Response | list[bytes]
) -> None:
    scene.pods.watches = [too_old]
    await scene.start()
    await until_watched(scene.pods, 2)
    assert scene.pods.listed == 2


async def until_watched(collection: Watched, times: int) -> None:
    async with asyncio.timeout(5), collection.asked:
        await collection.asked.wait_for(lambda: len(collection.watched) >= times)


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[]\n",
        b"{}\n",
        b'{"type": "ADDED", "object": {}}\n',
        b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "5"}}}\n',
        b'{"type": "ADDED", "object": {"metadata": null}}\n',
    ],
)
async def test_a_malformed_event_is_reported_and_listed_around(
    scene: Scene, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    scene.pods.watches = [[line, event("ADDED", raw_pod("never", 5)), Watched.HOLD]]
    await scene.start()
    scene.pods.lists = [[raw_pod("a", 9)]]
    await scene.until("a", lambda: scene.mirror.pods("a"))
    assert "cannot be read: " in caplog.text


async def test_a_malformed_object_is_skipped_and_reported_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.pods.lists = [[{"metadata": {}}, raw_pod("a")]]
    scene.pods.watches = [status(410, "Expired")]
    await scene.start()
    await until_watched(scene.pods, 2)
    assert scene.pods.listed == 2
    assert scene.mirror.pods("a")
    assert caplog.text.count("skipping unreadable object: a pod cannot be read") == 1


async def test_a_relist_tells_only_what_changed(scene: Scene) -> None:
    scene.namespaces.lists = [[raw_namespace("same"), raw_namespace("gone")]]
    scene.namespaces.watches = [status(410, "Expired")]
    await scene.start()
    scene.told.clear()
    scene.namespaces.lists = [[raw_namespace("same"), raw_namespace("new")]]
    await scene.until("new", lambda: scene.mirror.namespace("new"))
    assert scene.told == [("disappeared", "gone"), ("appeared", "new")]


@pytest.mark.parametrize("code", [408, 429, 500, 503])
async def test_a_busy_server_is_asked_again_later(scene: Scene, code: int) -> None:
    scene.pods.watches = [
        status(code, "Busy", headers={"Retry-After": "0"}),
        [event("ADDED", raw_pod("a", 5)), Watched.HOLD],
    ]
    await scene.start()
    await scene.until("a", lambda: scene.mirror.pods("a"))
    assert scene.pods.listed == 1
    assert scene.mirror.out_of_touch_since is None


async def test_out_of_touch_is_known_while_it_lasts(scene: Scene) -> None:
    assert scene.mirror.out_of_touch_since is not None
    scene.pods.watches = [status(503, "Unavailable", headers={"Retry-After": "3600"})]
    scene.namespaces.watches = [[event("ADDED", raw_namespace("a", 5)), Watched.HOLD]]
    await scene.start()
    await scene.until("a", lambda: scene.mirror.namespace("a"))
    await until_watched(scene.pods, 1)
    assert scene.mirror.namespace_stream.out_of_touch_since is None
    assert scene.mirror.out_of_touch_since == scene.mirror.pod_stream.out_of_touch_since
    assert scene.mirror.out_of_touch_since is not None


async def test_observers_learn_of_broken_and_recovered_watches(scene: Scene) -> None:
    scene.pods.watches = [
        [event("ADDED", raw_pod("a", 5))],
        status(503, "Unavailable"),
        [event("ADDED", raw_pod("b", 6)), Watched.HOLD],
    ]
    await scene.start()
    await scene.until("b", lambda: scene.mirror.pods("b"))
    assert scene.mirror.out_of_touch_since is None
    assert scene.touched[-2:] == [False, True]


async def test_a_silent_stream_is_given_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reflector, "SILENCE_SECONDS", 0.05)
    scene.pods.watches = [[Watched.HOLD], [event("ADDED", raw_pod("a", 5)), Watched.HOLD]]
    caplog.set_level(logging.INFO)
    await scene.start()
    await scene.until("a", lambda: scene.mirror.pods("a"))
    assert "cannot be reached" in caplog.text


async def test_lines_of_any_length_in_pieces_of_any_size(scene: Scene) -> None:
    big = raw_pod("a", 5)
    big["metadata"]["annotations"] = {"big": "x" * 3_000_000}
    line = event("ADDED", big) + event("ADDED", raw_pod("b", 6))
    pieces = [line[i : i + 700_001] for i in range(0, len(line), 700_001)]
    scene.pods.watches = [[*pieces, Watched.HOLD]]
    await scene.start()
    await scene.until("b", lambda: scene.mirror.pods("b"))
    assert scene.mirror.pods("a")


async def test_a_callback_that_fails_stops_nothing(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str) -> None:
        raise RuntimeError(name)

    def fail_too() -> None:
        raise RuntimeError

    scene.mirror.subscribe(Subscription(fail, fail, fail, fail_too))
    scene.namespaces.watches = [[event("ADDED", raw_namespace("a", 5)), Watched.HOLD]]
    await scene.start()
    await scene.until("a", lambda: scene.mirror.namespace("a"))
    assert "Callback for namespace a failed unexpectedly (bug)" in caplog.text
    assert "Callback for a changed watch failed unexpectedly (bug)" in caplog.text


class Kept:
    """What a mirror keeps of each pod."""

    def __init__(self) -> None:
        self._by_uid: dict[str, Pod] = {}
        self._by_namespace: dict[str, dict[str, Pod]] = {}

    def add(self, pod: Pod) -> None:
        self._by_uid[pod.uid] = pod
        self._by_namespace[pod.namespace] = {pod.uid: pod}


def test_a_record_takes_less_than_a_kibibyte() -> None:
    times = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
    running: dict[str, Any] = {
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
            for kind in times
        ],
        "containerStatuses": [
            {"name": "fedora", "state": {"running": {"startedAt": "x"}}, "restartCount": 0}
        ],
    }
    count = 1000
    lines = [
        json.dumps(
            raw_pod(f"main-{number:010d}", number, "Running", host="worker-7", **running)
        ).encode()
        for number in range(count)
    ]
    kept = Kept()
    tracemalloc.start()
    try:
        base = tracemalloc.get_traced_memory()[0]
        for line in lines:
            kept.add(pod_record(json.loads(line)))
        taken = tracemalloc.get_traced_memory()[0] - base
    finally:
        tracemalloc.stop()
    assert taken / count < 1024
