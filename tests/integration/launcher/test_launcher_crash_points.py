"""A launcher dies before and after each of its effects, one by one, and the next one ends it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cluster import LocalCluster

from nodepool_k8s.policy import upkeep
from tests.support import crashing, crashtable
from tests.support.admin import Admin, running
from tests.support.crashing import AFTER, BEFORE, CrashPoint
from tests.support.crashpoints import Death, Play, Plays, Story
from tests.support.site import manual_label, namespace_label, pod_label
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

TOGETHER = 12
"""So many stories are played at a time."""

EVERY = 7
"""Of all crash points, which are played without --all-crash-points; odd: before and after."""

DRAFT_S = 5.0
"""A draft is a dead launcher's after a minute; here nobody waits that long."""


# --- the stories -----------------------------------------------------------------------------


async def use_a_pod(play: Play) -> None:
    await use(play, "pod")


async def use_a_namespace(play: Play) -> None:
    await use(play, "namespace")


async def use(play: Play, *labels: str) -> None:
    request_id = await play.zuul.submit(*labels)
    locks = await play.accept(request_id)
    await play.zuul.give_back(locks)
    await play.zuul.gone(*locks)


async def use_a_ready_node_and_a_new_one(play: Play) -> None:
    first = await play.zuul.submit("pod")
    (node_id,) = (await play.zuul.answered(first))["nodes"]
    await play.zuul.cancel(first)

    async def free() -> bool:
        node = await play.zuul.node(node_id)
        return node is not None and node["allocated_to"] is None

    await eventually(free, "the node free")
    await use(play, "pod", "pod")


async def cancel_a_launch(play: Play) -> None:
    request_id = await play.zuul.submit("pod")
    await eventually(play.pods, "a pod")
    await play.zuul.cancel(request_id)

    async def gone() -> bool:
        return not await play.zuul.nodes()

    await eventually(gone, "its node gone")


async def ask_for_what_fails(play: Play) -> None:
    kubelet = asyncio.create_task(play.set_pods({"phase": "Failed"}))
    request_id = await play.zuul.submit("pod")
    await play.zuul.answered(request_id, "failed")
    await play.zuul.cancel(request_id)
    kubelet.cancel()


async def keep_a_spare_node(play: Play) -> None:
    async def spare() -> bool:
        nodes = (await play.zuul.nodes()).values()
        return any(node["state"] == "ready" and not node["allocated_to"] for node in nodes)

    await eventually(spare, "a ready node")


async def vanish_with_a_node(play: Play) -> None:
    request_id = await play.zuul.submit("pod")
    locks = await play.accept(request_id)
    for lock in locks.values():
        await play.zuul.unlock(lock)
    await play.zuul.gone(*locks)


async def stop_during_a_launch(play: Play) -> None:
    request_id = await play.zuul.submit("pod")
    await eventually(play.pods, "a pod")
    if play.process.exitcode is None:
        play.process.terminate()
        await play.ended()
    if play.process.exitcode == 0:
        return
    kubelet = asyncio.create_task(play.set_pods(running(ready=True)))
    await play.zuul.give_back(await play.accept(request_id))
    kubelet.cancel()


async def only_start(play: Play) -> None:
    del play


STORIES = {
    "start": Story("A launcher starts", (pod_label(),), only_start, phase=crashing.START),
    "pod": Story("A pod is asked for, used and returned", (pod_label(),), use_a_pod),
    "namespace": Story(
        "A namespace is asked for, used and returned", (namespace_label(),), use_a_namespace
    ),
    "reuse": Story(
        "A ready node is set free, and goes to a request for two with a new one",
        (pod_label(),), use_a_ready_node_and_a_new_one, limit=2,
    ),
    "cancelled": Story(
        "A request is withdrawn while its node is launched", (manual_label(),), cancel_a_launch
    ),
    "failing": Story(
        "A launch fails, is tried again, and the request declined",
        (manual_label(),), ask_for_what_fails, provider={"launch-retries": 2},
    ),
    "spare": Story(
        "A spare node is made for min-ready", (pod_label(),), keep_a_spare_node,
        top={"labels": [{"name": "pod", "min-ready": 1}]},
    ),
    "abandoned": Story("A requestor vanishes with its node", (pod_label(),), vanish_with_a_node),
    "drain": Story(
        "The launcher is stopped during a launch",
        (manual_label(),), stop_during_a_launch, phase=crashing.STOP,
    ),
}  # fmt: skip


async def test_the_next_launcher_ends_what_one_that_died_had_begun(
    fake_cluster: LocalCluster,
    admin: Admin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    all_crash_points: bool,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(fake_cluster.kubeconfig))
    monkeypatch.setattr(upkeep, "DRAFT_SECONDS", DRAFT_S)
    plays = Plays(STORIES, fake_cluster, admin, tmp_path, TOGETHER)
    effects = await plays.record()
    page = crashtable.PAGE
    rows = {STORIES[name].title: found for name, found in effects.items()}
    if not all_crash_points:
        assert not crashtable.differences(rows, page.read_text()), "run tools/crash-points"
    deaths = [
        Death(name, CrashPoint(effect, when))
        for name, found in effects.items()
        for effect in sorted(found)  # Always the same order, so that some are always the same.
        for when in (BEFORE, AFTER)
    ]
    outcomes = await plays.die(deaths if all_crash_points else deaths[::EVERY])
    wrong = {str(death): what for death, what in outcomes.items() if what}
    assert not wrong, "\n".join(f"{death}: {what}" for death, what in wrong.items())
    if all_crash_points:
        page.write_text(crashtable.written(rows, page.read_text()))
