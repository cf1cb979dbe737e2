"""The status page: every cell is text, and what is not shown is counted."""

from html import unescape
from typing import Any

from nodepool_k8s.web import page

EMPTY: dict[str, Any] = {
    "version": "1.2.3",
    "obstacles": [],
    "pools": [],
    "providers": [],
    "nodes": {},
    "requests": {},
    "waiting_count": 0,
    "waiting": [],
    "in_flight_count": 0,
    "in_flight": [],
    "failures": [],
    "stuck": [],
}

EVIL = "<b>\"'&amp;"


def render(**changes: Any) -> str:
    return page.render({**EMPTY, **changes}, ["/node-list"])


def test_an_idle_launcher_has_a_page() -> None:
    text = render()
    assert "nodepool-k8s 1.2.3" in text
    assert "<p>Ready.</p>" in text
    assert text.count("<p>None.</p>") == 6


def test_what_keeps_it_from_working_comes_first() -> None:
    text = render(obstacles=["no ZooKeeper", EVIL])
    assert "<li>no ZooKeeper</li>" in text
    assert text.index("Not ready") < text.index("Pools")
    assert EVIL not in text


def test_requests_that_are_not_shown_are_counted() -> None:
    waiting = [{"request": "200-0000000001", "labels": ["a", "b"], "waits_for": "its turn"}]
    served = [{"request": "200-0000000002", "nodes": [{"node": "1"}, {"node": "2"}]}]
    text = render(waiting=waiting, waiting_count=7, in_flight=served, in_flight_count=4)
    assert "<td>a, b</td>" in text
    assert "<p>And 6 more.</p>" in text
    assert "<p>And 3 more.</p>" in text
    assert text.count("<td>200-0000000002</td>") == 2


def test_whatever_others_wrote_is_text() -> None:
    rows = {
        "pools": [
            {"pool": EVIL, "waits_for": EVIL, "resources": {EVIL: {"used": 1, "limit": None}}}
        ],
        "providers": [{"provider": EVIL, "trouble": EVIL, "in_touch": False}],
        "waiting": [{"request": EVIL, "requestor": EVIL, "labels": [EVIL]}],
        "in_flight": [{"request": EVIL, "nodes": [{"node": EVIL, "failure": EVIL}]}],
        "failures": [{"reason": EVIL, "labels": [EVIL]}],
        "stuck": [{"namespace": EVIL, "reason": EVIL}],
        "nodes": {EVIL: 1},
        "requests": {EVIL: 2},
    }
    text = render(**rows)
    assert EVIL not in text
    assert unescape(text).count(EVIL) == 17
