"""The launcher's state in words, and every task down to what it awaits."""

import asyncio
import re
import threading
from dataclasses import replace
from typing import Any

from nodepool_k8s.launcher.dump import dump, summary
from nodepool_k8s.model import Node, NodeState
from nodepool_k8s.snapshot import (
    LauncherSnapshot,
    LaunchingNode,
    PoolSnapshot,
    ServedRequest,
    WaitingRequest,
    count_records,
)

IDLE = LauncherSnapshot(pools=(PoolSnapshot("local", "main"),))

BUSY = LauncherSnapshot(
    pools=(PoolSnapshot("local", "main", waiting=2, waits_for="quota: 4 of 4 cores in use"),),
    records=count_records(
        [
            *(Node(str(number), NodeState.BUILDING) for number in range(2)),
            *(Node(str(number), NodeState.IN_USE) for number in range(3)),
        ],
        [],
        [],
    ),
    waiting_count=2,
    waiting=(
        WaitingRequest("200-0000000003", "local/main", "zuul", ("pod",), 5.0, "quota: 4 cores"),
        WaitingRequest("200-0000000004", "local/main", "zuul", ("pod",), 5.0, "its turn"),
    ),
    in_flight_count=1,
    in_flight=(
        ServedRequest(
            "200-0000000002",
            "local/main",
            "zuul",
            5.0,
            (
                LaunchingNode(
                    "0000000007",
                    "pod",
                    None,
                    NodeState.BUILDING,
                    "ErrImagePull",
                    "the pod ended (Failed)",
                ),
                LaunchingNode("0000000008", "pod", "main-8", NodeState.READY, "", ""),
            ),
        ),
    ),
)


def test_a_line_for_systemd() -> None:
    assert summary(IDLE) == "pools: 1, nodes: 0, requests: 0 waiting, 0 being served"
    assert summary(BUSY) == (
        "pools: 1, nodes: 5 (2 building, 3 in-use), requests: 2 waiting, 1 being served"
    )
    assert summary(replace(BUSY, obstacles=("no ZooKeeper", "other"))) == (
        "Cannot serve: no ZooKeeper"
    )


async def test_what_is_waited_for_in_words() -> None:
    gone = asyncio.Event()
    deleting = asyncio.create_task(outer(gone), name="delete node 0000000009")
    await asyncio.sleep(0)
    text = dump(replace(BUSY, obstacles=("provider far: not connected yet",)))
    words = text.partition("Tasks:")[0].splitlines()
    assert [line.strip() for line in words[2:]] == [
        "Cannot serve: provider far: not connected yet",
        "Pool local/main: waiting requests: 2; the first waits for quota: 4 of 4 cores in use",
        "Request 200-0000000003 in pool local/main: waits for quota: 4 cores",
        "Request 200-0000000004 in pool local/main: waits for its turn",
        "Request 200-0000000002 in pool local/main: being served",
        "Node 0000000007 (pod): waits for ErrImagePull; its last attempt failed: the pod ended "
        "(Failed)",
        "Node 0000000008 (pod): ready",
        "Node 0000000009: being deleted",
    ]
    gone.set()
    await deleting


async def outer(gone: asyncio.Event) -> None:
    await inner(gone)


async def inner(gone: asyncio.Event) -> None:
    await gone.wait()


async def waits_for(task: asyncio.Task[None]) -> None:
    async for _ in results(task):
        pass


async def results(task: asyncio.Task[None]) -> Any:
    yield await asyncio.shield(task)


async def directly(task: asyncio.Task[None]) -> None:
    await task


async def test_every_task_with_its_coroutines_and_what_it_awaits() -> None:
    gone = asyncio.Event()
    first = asyncio.create_task(outer(gone), name="first")
    others = {
        asyncio.create_task(waits_for(first), name="second"),
        asyncio.create_task(directly(first), name="third"),
    }
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    text = dump(IDLE).partition("Tasks:")[2].partition("Threads:")[0]
    here = re.escape(__file__)
    assert re.search(
        rf"  first, awaits a Future\n    {here}:\d+ outer\n    {here}:\d+ inner\n.*Event\.wait",
        text,
    )
    assert re.search(rf"  second, awaits a Future\n    {here}:\d+ waits_for\n", text)
    assert re.search(rf"  third, awaits task first\n    {here}:\d+ directly\n", text)
    # The one that dumps is running: it awaits nothing.
    current = asyncio.current_task()
    assert current is not None
    assert re.search(rf"  {re.escape(current.get_name())}\n", text)
    gone.set()
    await asyncio.wait({first, *others})


async def test_every_thread_with_its_stack() -> None:
    leave, inside = threading.Event(), threading.Event()

    def stay() -> None:
        inside.set()
        leave.wait(20)

    thread = threading.Thread(target=stay, name="stays", daemon=True)
    thread.start()
    assert inside.wait(20)
    text = dump(IDLE).partition("Threads:")[2]
    leave.set()
    thread.join()
    assert re.search(rf"  stays \(daemon\)\n(    .*\n)*    {re.escape(__file__)}:\d+ stay\n", text)
    assert re.search(r"  MainThread\n", text)
