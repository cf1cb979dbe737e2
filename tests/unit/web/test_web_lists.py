"""Queries, filters, and that the lists have Nodepool's keys."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nodepool_k8s import presentation
from nodepool_k8s.config.settings import TopLabel
from nodepool_k8s.errors import BadQuery
from nodepool_k8s.model import Component, Node, NodeRequest, NodeState, RequestState
from nodepool_k8s.snapshot import LauncherSnapshot
from nodepool_k8s.web.handlers import application
from nodepool_k8s.web.lists import LABELS, LISTINGS, NODES, REQUESTS, Listing, parse_query

NODEPOOL_NODE_KEYS = [
    "id",
    "provider",
    "label",
    "server_id",
    "public_ipv4",
    "ipv6",
    "state",
    "age",
    "locked",
    "pool",
    "hostname",
    "private_ipv4",
    "AZ",
    "username",
    "connection_port",
    "launcher",
    "allocated_to",
    "hold_job",
    "comment",
    "user_data",
    "driver_data",
]
NODEPOOL_REQUEST_KEYS = [
    "id",
    "relative_priority",
    "state",
    "requestor",
    "node_types",
    "nodes",
    "declined_by",
    "event_id",
]


@dataclass
class Records:
    nodes: dict[str, Node] = field(default_factory=dict)
    requests: dict[str, NodeRequest] = field(default_factory=dict)
    components: dict[str, Component] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    labels: dict[str, TopLabel] = field(default_factory=dict)

    @property
    def records(self) -> "Records":
        return self

    def node_locked(self, node_id: str) -> bool:
        return node_id in self.locked

    def obstacles(self) -> list[str]:
        return []

    def snapshot(self) -> LauncherSnapshot:
        return LauncherSnapshot()


def rows(listing: Listing, records: Records, *parameters: tuple[str, str]) -> list[dict[str, Any]]:
    return list(listing.rows(records, records, parse_query(listing, parameters).chosen))


def ids(listing: Listing, records: Records, *parameters: tuple[str, str]) -> list[str]:
    key = "label" if listing is LABELS else "id"
    return [row[key] for row in rows(listing, records, *parameters)]


SITE = Records(
    nodes={
        node.id: node
        for node in (
            Node("0000000002", NodeState.READY, ("pod",), "east", "main"),
            Node("0000000001", NodeState.IN_USE, ("pod", "big"), "east", "other"),
            Node("0000000003", NodeState.IN_USE, (), "west", "main"),
            Node("0000000004", NodeState.BUILDING, ("big",), None, None),
        )
    },
    requests={
        request.id: request
        for request in (
            NodeRequest("200-0000000001", RequestState.REQUESTED, ("pod",), requestor="zuul"),
            NodeRequest("100-0000000002", RequestState.PENDING, ("pod", "big"), requestor="ann"),
        )
    },
    components={
        "a": Component("a", "east", frozenset({"pod", "big"})),
        "b": Component("b", "west", frozenset({"pod"}), paused=True),
    },
    locked={"0000000001"},
)


def test_lists_have_nodepools_keys_in_its_order_with_headings() -> None:
    assert list(NODES.columns) == NODEPOOL_NODE_KEYS
    assert list(REQUESTS.columns) == NODEPOOL_REQUEST_KEYS
    assert list(LABELS.columns) == ["label"]
    for listing in (NODES, REQUESTS, LABELS):
        for row in rows(listing, SITE):
            assert set(row) == set(listing.columns) | set(listing.more)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ([], "1234"),
        ([("node_id", "0000000002")], "2"),
        ([("node_id", "7")], ""),
        ([("node_id", "0000000002"), ("node_id", "0000000003")], "23"),
        ([("provider", "east")], "12"),
        ([("provider", "east"), ("pool", "main")], "2"),
        ([("label", "big")], "14"),
        ([("state", "in-use")], "13"),
        ([("state", "in-use"), ("state", "ready"), ("provider", "east")], "12"),
        ([("provider", "nowhere")], ""),
        ([("provider", "")], "1234"),
        ([("_", "1234567")], "1234"),
    ],
)
def test_filters_choose_nodes(query: list[tuple[str, str]], expected: str) -> None:
    assert "".join(node_id[-1] for node_id in ids(NODES, SITE, *query)) == expected


def test_filters_choose_requests_and_labels() -> None:
    assert ids(REQUESTS, SITE) == ["100-0000000002", "200-0000000001"]
    assert ids(REQUESTS, SITE, ("label", "big")) == ["100-0000000002"]
    assert ids(REQUESTS, SITE, ("state", "requested")) == ["200-0000000001"]
    assert ids(REQUESTS, SITE, ("requestor", "ann")) == ["100-0000000002"]
    assert ids(LABELS, SITE) == ["big", "pod"]
    assert ids(LABELS, SITE, ("provider", "west")) == ["pod"]
    assert ids(LABELS, SITE, ("label", "big")) == ["big"]


def test_a_node_that_goes_while_the_list_is_made_is_left_out() -> None:
    records = Records(nodes=dict(SITE.nodes))
    listed = iter(NODES.rows(records, records, {}))
    assert next(iter(listed))["id"] == "0000000001"
    del records.nodes["0000000002"]
    assert [row["id"] for row in listed] == ["0000000003", "0000000004"]


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("/node-list", ("state", "happy"), "state is 'happy'; expected one of: init, building"),
        ("/request-list", ("state", "ready"), "state is 'ready'; expected one of: requested"),
        ("/node-list", ("node_id", "x"), "node_id is 'x'; expected a node's id, such as 0000"),
        ("/node-list", ("node_id", "١"), "node_id is '\\u0661'; expected a node's id"),
        ("/node-list", ("provder", "x"), "unknown parameter 'provder'; expected one of: fields,"),
        ("/node-list", ("fields", "id,sate"), "unknown field 'sate'; expected some of: id, prov"),
        ("/label-list", ("fields", "id"), "unknown field 'id'; expected some of: label, provid"),
        ("/image-list", ("state", "x"), "unknown parameter 'state'; expected one of: fields"),
        ("/node-list", ("x" * 500, "1"), "unknown parameter '" + "x" * 60 + "...';"),
        ("/node-list", ("\n\x1b", "1"), r"unknown parameter '\n\x1b'"),
    ],
)
def test_a_query_that_cannot_be_answered_says_what_was_expected(
    path: str, query: tuple[str, str], expected: str
) -> None:
    with pytest.raises(BadQuery) as refusal:
        parse_query(LISTINGS[path], [query])
    assert str(refusal.value).startswith(expected)


def test_fields_are_shown_in_the_lists_own_order() -> None:
    query = parse_query(NODES, [("fields", "reason, state,,id"), ("fields", "pool")])
    assert query.columns is not None
    assert list(query.columns) == ["id", "state", "pool", "reason"]
    assert parse_query(NODES, [("fields", "")]).columns is None


def test_two_queries_with_one_answer_have_one_key() -> None:
    first = parse_query(NODES, [("state", "ready"), ("pool", "a"), ("state", "used")])
    second = parse_query(NODES, [("pool", "a"), ("_", "9"), ("state", "used"), ("state", "ready")])
    assert first.key == second.key != parse_query(NODES, [("state", "ready")]).key


def test_image_lists_are_empty() -> None:
    for path in ("/image-list", "/image-status", "/dib-image-list", "/dib-request-list"):
        assert rows(LISTINGS[path], SITE) == []


def test_a_nodes_row_says_who_has_it_locked() -> None:
    row = rows(NODES, SITE, ("node_id", "0000000001"))[0]
    assert (row["locked"], row["label"]) == ("locked", ["pod", "big"])
    assert row["age"] == presentation.age(0, 1)


def test_the_documentation_names_every_path_and_every_filter() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operate.md").read_text(encoding="utf-8")
    section = page.partition("\n## Web\n")[2].partition("\n## ")[0]
    for resource in application(SITE).router.resources():
        assert f"`{resource.canonical}`" in section
    for path, listing in LISTINGS.items():
        # The images' lists share a row, and have no filters.
        (row,) = (line for line in section.splitlines() if line.startswith("|") and path in line)
        assert set(re.findall(r"`([a-z_]+)`", row)) == set(listing.filters)
