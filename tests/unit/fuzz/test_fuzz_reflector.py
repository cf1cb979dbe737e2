"""The mirror of a cluster against an API server that fails, forgets and talks nonsense.

Whatever it answers, the watches go on, whoever asks is told why it is out of touch, and when
the nonsense is over the mirror is what is there.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from nodepool_k8s.config.settings import LaunchSettings
from nodepool_k8s.errors import MalformedAnswer
from nodepool_k8s.kubernetes import diagnosis, pod_failures
from nodepool_k8s.kubernetes.diagnosis import Observation
from nodepool_k8s.kubernetes.parsing import namespace_record, pod_record
from nodepool_k8s.kubernetes.reflector import ObjectCache, Subscription
from nodepool_k8s.model import Namespace, Pod
from tests.support import virtualtime
from tests.support.fuzzing import fuzzed, values
from tests.support.objects import ODD_ANSWERS, broken, namespaces, pods
from tests.support.scripted import Answer, Collection, ScriptedClient

RECOVERY_SECONDS = 120.0
"""Enough for one Retry-After, however long, and for a version that is from the future."""

JUNK_LINES = st.one_of(
    st.binary(max_size=12),
    values.map(lambda value: json.dumps(value).encode()),
    broken(
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]),
                "object": pods(),
            }
        )
    ).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {
            "type": st.just("ERROR"),
            "object": st.fixed_dictionaries(
                {}, optional={"code": values | st.just(410), "reason": values, "message": values}
            ),
        }
    ).map(lambda value: json.dumps(value).encode()),
    st.just(b"[" * 3000),
    st.just(b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "99999"}}}'),
).map(lambda line: line.replace(b"\n", b"") + b"\n")
FAULTS = st.one_of(
    ODD_ANSWERS,
    st.none(),
    JUNK_LINES,
)

STEPS = st.one_of(
    st.tuples(st.just("namespace"), st.integers(0, 3), namespaces()),
    st.tuples(st.just("pod"), st.integers(0, 3), pods()),
    st.tuples(st.just("pod"), st.integers(0, 3), pods()),
    st.tuples(st.just("broken namespace"), st.integers(0, 3), broken(namespaces())),
    st.tuples(st.just("broken pod"), st.integers(0, 3), broken(pods())),
    st.tuples(st.just("remove"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("fault"), FAULTS, st.booleans()),
    st.tuples(st.just("say"), JUNK_LINES, st.booleans()),
    st.tuples(st.just("cut"), st.booleans(), st.booleans()),
    st.tuples(st.just("forget"), st.none(), st.booleans()),
    st.tuples(st.just("bookmark"), st.none(), st.booleans()),
    st.tuples(st.just("page"), st.sampled_from([1, 2, 500]), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.05, 0.5, 5.0]), st.booleans()),
)


class Scene:
    """A mirror, its API server, and what the mirror has said."""

    def __init__(self) -> None:
        self.namespaces = Collection()
        self.pods = Collection()
        self.client = ScriptedClient(self.answer)
        self.lied = False
        self.lost: list[str] = []
        self.touched: list[bool] = []

    async def answer(self, method: str, url: URL, body: str) -> Answer:
        return await (self.pods if url.path.endswith("/pods") else self.namespaces).answer(url)

    async def play(self, steps: list[tuple[str, Any, Any]]) -> None:
        await self.client.connect()
        self.mirror = ObjectCache(self.client, "a=b")
        self.mirror.subscribe(
            Subscription(
                pod_lost=self.lost.append,
                namespace_appeared=self.appeared,
                namespace_disappeared=lambda name: None,
                touch_changed=lambda: self.touched.append(self.mirror.out_of_touch_since is None),
            )
        )
        streams = (self.mirror.namespace_stream, self.mirror.pod_stream)
        tasks = [asyncio.ensure_future(stream.run()) for stream in streams]
        try:
            for kind, what, how in steps:
                self.step(kind, what, how)
                await asyncio.sleep(what if kind == "wait" else 0.0)
                self.look()
                assert not any(task.done() for task in tasks), tasks
            await self.settle(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.client.close()

    def appeared(self, name: str) -> None:
        assert self.mirror.namespace(name) is not None

    def step(self, kind: str, what: Any, how: Any) -> None:
        if kind.startswith("broken"):
            self.lied = True
        if kind.endswith("namespace"):
            self.put(self.namespaces, what, how, {"name": f"n{what}", "uid": f"uid-{what}"})
        elif kind.endswith("pod"):
            self.put(self.pods, what, how, {"namespace": f"n{what % 2}", "uid": f"pod-{what}"})
        elif kind == "wait":
            return
        else:
            getattr(self, f"step_{kind}")(self.pods if how else self.namespaces, what)

    def put(self, there: Collection, number: int, raw: Any, place: dict[str, str]) -> None:
        about = raw.get("metadata") if isinstance(raw, dict) else None
        if isinstance(about, dict):
            # What was broken about its place stays broken.
            for key, value in place.items():
                if about.get(key) in ("n", "uid", "uid-pod"):
                    about[key] = value
        there.put(f"{number}", raw)

    def step_remove(self, there: Collection, number: int) -> None:
        there.remove(f"{number}")

    def step_fault(self, there: Collection, fault: Any) -> None:
        self.lied |= isinstance(fault, bytes)
        there.faults.append(fault)

    def step_say(self, there: Collection, line: bytes) -> None:
        self.lied = True
        there.say(line)

    def step_cut(self, there: Collection, both: bool) -> None:
        there.cut()

    def step_forget(self, there: Collection, _: None) -> None:
        there.forget()

    def step_bookmark(self, there: Collection, _: None) -> None:
        there.bookmark()

    def step_page(self, there: Collection, size: int) -> None:
        there.page = size

    # --- what is to be true

    def look(self) -> None:
        """Whatever the mirror shows can be judged."""
        for namespace in self.mirror.namespaces():
            assert namespace.deleted_at is None or namespace.deleting
        for name in list(self.mirror._pods):
            found = self.mirror.pods(name)
            assert found
            assert all(pod.namespace == name for pod in found)
            verdict, _ = diagnosis.diagnose(found, Observation(0.0), 1.0, LaunchSettings())
            if not isinstance(verdict, diagnosis.PodReady):
                assert verdict.reason
            diagnosis.why_unusable(found, LaunchSettings())
            pod_failures.of_pods(found, timed_out=False)

    async def settle(self, tasks: Sequence[asyncio.Future[None]]) -> None:
        for there in (self.namespaces, self.pods):
            there.faults.clear()
            if self.lied:
                # What a lie hides, the next list shows.
                there.version += 1000
                there.forget()
                there.cut()
        await asyncio.sleep(RECOVERY_SECONDS)
        self.look()
        assert not any(task.done() for task in tasks), tasks
        assert self.mirror.out_of_touch_since is None
        assert self.mirror.in_sync
        assert not self.touched or self.touched[-1]
        expected_pods = {record.uid: record for record in readable(self.pods, pod_record)}
        shown = {pod.uid: pod for found in self.mirror._pods.values() for pod in found.values()}
        assert shown == expected_pods
        there_are: dict[str, list[Namespace]] = {}
        by_uid = {record.uid: record for record in readable(self.namespaces, namespace_record)}
        for record in by_uid.values():
            there_are.setdefault(record.name, []).append(record)
        assert {record.name for record in self.mirror.namespaces()} == there_are.keys()
        for name, records in there_are.items():
            assert self.mirror.namespace(name) in records


def readable(there: Collection, read: Callable[[dict[str, Any]], Pod | Namespace]) -> list[Any]:
    found = []
    for raw in there.objects.values():
        try:
            found.append(read(json.loads(json.dumps(raw))))
        except MalformedAnswer:
            continue
    return found


@fuzzed(60)
@given(st.lists(STEPS, max_size=12))
def test_a_mirror_outlives_all_nonsense_and_is_right_in_the_end(
    steps: list[tuple[str, Any, Any]],
) -> None:
    logging.disable(logging.WARNING)
    try:
        virtualtime.run(Scene().play(json_safe(steps)))
    finally:
        logging.disable(logging.NOTSET)


def json_safe(steps: list[tuple[str, Any, Any]]) -> list[tuple[str, Any, Any]]:
    """The objects are changed while the test runs: each run has its own."""
    return [
        (kind, what, json.loads(json.dumps(how)) if isinstance(how, dict | list) else how)
        for kind, what, how in steps
    ]


@fuzzed(80)
@given(broken(pods(), 4), broken(namespaces(), 3))
def test_what_is_no_pod_or_namespace_is_malformed(pod: Any, namespace: Any) -> None:
    for read, raw in ((pod_record, pod), (namespace_record, namespace)):
        try:
            record: Any = read(raw)
        except MalformedAnswer as error:
            told = str(error)
        else:
            told = f"{record.uid!r} cannot be read: no"
        assert "cannot be read: " in told
        assert len(told) < 20_000
