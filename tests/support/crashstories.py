"""The stories in which a launcher is killed; each has effects that no other story has."""

from __future__ import annotations

import asyncio
import time

from harness.requestor import NODES, REQUEST_LOCKS, REQUESTS

from tests.support import crashing
from tests.support.admin import running
from tests.support.crashpoints import QUICK, Play, Story
from tests.support.site import manual_label, namespace_label, pod_label
from tests.support.waiting import eventually


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
    await make_a_ready_node(play)
    await use(play, "pod", "pod")


async def make_a_ready_node(play: Play) -> None:
    """A ready node whose request is cancelled before it is accepted."""
    request_id = await play.zuul.submit("pod")
    (node_id,) = (await play.zuul.answered(request_id))["nodes"]
    await play.zuul.cancel(request_id)

    async def free() -> bool:
        node = await play.zuul.node(node_id)
        return node is not None and node["allocated_to"] is None

    await eventually(free, "the node free")


async def free_a_node_and_use_it(play: Play) -> None:
    await make_a_ready_node(play)
    await use(play, "pod")


async def ask_for_too_many(play: Play) -> None:
    request_id = await play.zuul.submit("pod", "pod")
    await play.zuul.answered(request_id, "failed")
    await play.zuul.cancel(request_id)


async def ask_for_what_fails_in_part(play: Play) -> None:
    request_id = await play.zuul.submit("pod", "broken")

    async def half() -> bool:
        return any(node["state"] == "ready" for node in (await play.zuul.nodes()).values())

    async def free() -> bool:
        nodes = list((await play.zuul.nodes()).values())
        return [node["allocated_to"] for node in nodes] == [None]

    await eventually(half, "one of two")
    kubelet = asyncio.create_task(play.set_pods({"phase": "Failed"}, "broken"))
    await play.zuul.answered(request_id, "failed")
    await eventually(free, "an unallocated ready node")
    await play.zuul.cancel(request_id)
    kubelet.cancel()


async def die_and_leave_things(play: Play) -> None:
    play.start()
    await play.begun()
    await play.zuul.submit("pod")
    await launch(play)
    await play.kill()
    an_hour_ago = time.time() - 3600
    draft = {"state": "init", "state_time": an_hour_ago, "provider": "local", "pool": "main"}
    draft |= {"type": ["pod"], "allocated_to": None}
    draft |= {"driver_data": {"nodepool_k8s": {"type": "pod"}}}
    await play.zuul.create(f"{NODES}/", draft, sequence=True)
    await play.zuul.create(f"{NODES}/9999999999/lock", b"", makepath=True)
    await play.zuul.create(f"{REQUEST_LOCKS}/200-9999999999", b"")
    await play.leave_namespace("9999999998")


async def take_over(play: Play) -> None:
    kubelet = asyncio.create_task(play.set_pods(running(ready=True)))
    (request_id,) = await play.zuul.children(REQUESTS)
    await play.zuul.give_back(await play.accept(request_id))
    kubelet.cancel()

    async def nothing() -> bool:
        return not await play.zuul.children(NODES) and not await play.namespaces()

    await eventually(nothing, "what was left gone")


async def cancel_a_launch(play: Play) -> None:
    request_id = await play.zuul.submit("pod")
    await launch(play)
    await play.zuul.cancel(request_id)
    await no_nodes(play)


async def launch(play: Play) -> None:
    """Wait until the launcher knows of a pod."""
    await eventually(play.pods, "a pod")
    await play.answered_to("POST /api/v1/namespaces/NAMESPACE/pods")


async def no_nodes(play: Play) -> None:
    async def gone() -> bool:
        return not await play.zuul.nodes()

    await eventually(gone, "every node gone")


async def ask_for_what_fails(play: Play) -> None:
    kubelet = asyncio.create_task(play.set_pods({"phase": "Failed"}))
    request_id = await play.zuul.submit("pod")
    await play.zuul.answered(request_id, "failed")
    await no_nodes(play)
    await play.zuul.cancel(request_id)
    kubelet.cancel()


async def keep_a_spare_node(play: Play) -> None:
    play.configure({"labels": [{"name": "pod", "min-ready": 1}]})

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
    await launch(play)
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
    "pod": Story("A pod node is requested, used and returned", (pod_label(),), use_a_pod),
    "namespace": Story(
        "A namespace node is requested, used and returned", (namespace_label(),), use_a_namespace
    ),
    "reuse": Story(
        "A spare node is reused with a new node for one request",
        (pod_label(),), use_a_ready_node_and_a_new_one, limit=2,
    ),
    "tenant": Story(
        "A tenant at its limit withdraws a request, and gets its ready node later",
        (pod_label(),), free_a_node_and_use_it,
        top={"tenant-resource-limits": [{"tenant-name": "tenant-one", "max-servers": 1}]},
    ),
    "refused": Story(
        "A request that can never fit is declined", (pod_label(),), ask_for_too_many
    ),
    "half": Story(
        "One of two launches fails, and the other node stays for another request",
        (pod_label(), manual_label("broken")), ask_for_what_fails_in_part, limit=2,
        provider={"launch-retries": 1},
    ),
    "cancelled": Story(
        "A request is withdrawn while its node is launched", (manual_label(),), cancel_a_launch
    ),
    "failing": Story(
        "A launch fails and is retried, and the request is declined",
        (manual_label(),), ask_for_what_fails, provider={"launch-retries": 2},
    ),
    "spare": Story(
        "The configuration adds a spare node", (pod_label(),), keep_a_spare_node
    ),
    "abandoned": Story(
        "A requestor dies while it holds its node", (pod_label(),), vanish_with_a_node
    ),
    "drain": Story(
        "The launcher is stopped during a launch",
        (manual_label(),), stop_during_a_launch, phase=crashing.STOP,
    ),
    "takeover": Story(
        "A launcher cleans up after one that was killed during a launch",
        (manual_label(),), take_over, phase=None, before=die_and_leave_things, intervals=QUICK,
    ),
}  # fmt: skip
