"""The status page: every cell is text, and what is not shown is counted."""

from __future__ import annotations

from html import unescape
from typing import Any

from nodepool_k8s.model import NodeState
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
)
from nodepool_k8s.web import page

EVIL = "<b>\"'&amp;"


def render(**fields: Any) -> str:
    return page.render(LauncherSnapshot(version="1.2.3", **fields), ["/node-list"])


def waiting(request_id: str, text: str) -> WaitingRequest:
    return WaitingRequest(request_id, "local/main", text, (text, "b"), 0.0, "its turn")


def launching(node_id: str, failure: str = "") -> LaunchingNode:
    return LaunchingNode(node_id, "pod", None, NodeState.BUILDING, "the image", failure)


def served(request_id: str, *nodes: LaunchingNode) -> ServedRequest:
    return ServedRequest(request_id, "local/main", "zuul", 0.0, nodes)


def test_an_idle_launcher_has_a_page() -> None:
    text = render()
    assert "nodepool-k8s 1.2.3" in text
    assert "<p>Ready.</p>" in text
    assert text.count("<p>None.</p>") == 6


def test_what_keeps_it_from_working_comes_first() -> None:
    text = render(obstacles=("no ZooKeeper", EVIL))
    assert "<li>no ZooKeeper</li>" in text
    assert text.index("Not ready") < text.index("Pools")
    assert EVIL not in text


def test_requests_that_are_not_shown_are_counted() -> None:
    text = render(
        waiting=(waiting("200-0000000001", "a"),),
        waiting_count=7,
        in_flight=(served("200-0000000002", launching("1"), launching("2")),),
        in_flight_count=4,
    )
    assert "<td>a, b</td>" in text
    assert "<p>And 6 more.</p>" in text
    assert "<p>And 3 more.</p>" in text
    assert text.count("<td>200-0000000002</td>") == 2


def test_usage_of_each_resource_has_its_own_line() -> None:
    usage = (ResourceUsage("cores", 1500, 4000), ResourceUsage("ram", 1000, None))
    text = render(pools=(PoolSnapshot("local", "main", resources=usage),))
    assert "<td>cores: 1.5 of 4<br>ram: 1 no limit</td>" in text


def test_text_from_outside_is_escaped() -> None:
    usage = (ResourceUsage(EVIL, 1000, None),)
    text = render(
        pools=(PoolSnapshot("local", EVIL, waits_for=EVIL, resources=usage),),
        providers=(ProviderSnapshot(EVIL, context=EVIL, trouble=EVIL),),
        waiting=(waiting(EVIL, EVIL),),
        in_flight=(served(EVIL, launching(EVIL, failure=EVIL)),),
        failures=(RecentFailure(0.0, "200-0000000001", None, (EVIL,), EVIL),),
        stuck=(StuckDeletion(EVIL, None, None, 0.0, EVIL),),
    )
    assert EVIL not in text
    assert unescape(text).count(EVIL) == 16
