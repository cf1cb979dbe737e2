"""Rows of records: Nodepool's keys, ages, and no secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nodepool_k8s import presentation
from nodepool_k8s.config.settings import TopLabel
from nodepool_k8s.model import Component, Node, NodeRequest, NodeState, RequestState, Resources
from nodepool_k8s.znodes.encoding import DRIVER_KEY

NOW = 1_000_000.0

NODEPOOLS_NODE_KEYS = {
    *("id", "provider", "label", "server_id", "public_ipv4", "ipv6", "state", "age", "locked"),
    *("pool", "hostname", "private_ipv4", "AZ", "username", "connection_port", "launcher"),
    *("allocated_to", "hold_job", "comment", "user_data", "driver_data"),
}
NODEPOOLS_REQUEST_KEYS = {
    *("id", "relative_priority", "state", "requestor", "node_types", "nodes", "declined_by"),
    "event_id",
}


def node(**fields: Any) -> Node:
    return Node(id="0000000001", state=NodeState.READY, **fields)


def test_a_nodes_row_has_every_key_of_nodepools_listing() -> None:
    row = presentation.node_row(node(), False, NOW)
    assert row.keys() >= NODEPOOLS_NODE_KEYS
    assert row["age"] == ""
    assert row["label"] == []
    assert json.loads(json.dumps(row)) == row


def test_a_nodes_row_has_the_values_of_its_record() -> None:
    extra = {"public_ipv6": "::1", "az": "here", "connection_port": 22, "hold_expiration": 60}
    row = presentation.node_row(
        node(
            type=("pod", "other"),
            external_id="main-1",
            state_time=NOW - 90061,
            resources=Resources.of(cores=0.5, instances=1),
            driver_data={DRIVER_KEY: {"reason": "it was used", "claimed": {}}},
            extra=extra,
        ),
        True,
        NOW,
    )
    assert (row["label"], row["server_id"], row["age"]) == (
        ["pod", "other"],
        "main-1",
        "01:01:01:01",
    )
    assert (row["ipv6"], row["AZ"], row["connection_port"]) == ("::1", "here", 22)
    assert (row["locked"], row["reason"], row["hold_expiration"]) == ("locked", "it was used", 60)
    assert row["resources"] == {"cores": 0.5, "instances": 1}


@pytest.mark.parametrize(
    ("port", "shown"),
    [
        (22, 22),
        ("19885", 19885),
        (None, None),
        ({"token": "x", "host": "h"}, "redacted"),
        (True, "redacted"),
    ],
)
def test_a_port_that_is_not_a_number_is_redacted(port: object, shown: object) -> None:
    assert (
        presentation.node_row(node(extra={"connection_port": port}), False, NOW)["connection_port"]
        == shown
    )


def test_a_requests_row_has_nodepools_keys_and_reasons() -> None:
    request = NodeRequest(
        id="200-0000000001",
        state=RequestState.FAILED,
        node_types=("pod",),
        created_time=NOW - 61,
        state_time=NOW - 1,
        extra={DRIVER_KEY: {"reasons": ["too large"]}},
    )
    row = presentation.request_row(request, NOW)
    assert row.keys() >= NODEPOOLS_REQUEST_KEYS
    assert (row["age"], row["state_age"]) == ("00:00:01:01", "00:00:00:01")
    assert row["reasons"] == ["too large"]


def test_label_rows_show_pools_and_nodes() -> None:
    components = [
        Component("a", "one", frozenset(["pod", "both"]), paused=True),
        Component("b", "two", frozenset(["both"])),
    ]
    nodes = [node(type=("both",)), node(type=("both",)), node(type=("elsewhere",))]
    both, pod = presentation.label_rows(components, nodes, {"pod": TopLabel("pod", min_ready=3)})
    assert both == {
        "label": "both",
        "providers": ["one", "two"],
        "pools": ["a", "b"],
        "paused": False,
        "min_ready": None,
        "nodes": {"ready": 2},
    }
    assert (pod["label"], pod["paused"], pod["min_ready"], pod["nodes"]) == ("pod", True, 3, {})


def test_an_age_is_never_negative() -> None:
    assert presentation.age(NOW + 5, NOW) == "00:00:00:00"
    assert presentation.age(None, NOW) == ""


TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"


def test_secrets_in_a_nodes_fields_are_redacted() -> None:
    extra = {"comment": TOKEN, "user_data": {"password": "s3cret"}}
    data = {DRIVER_KEY: {"reason": f"403 {TOKEN}"}, "token": "s3cret"}
    shown = json.dumps(presentation.node_row(node(extra=extra, driver_data=data), False, NOW))
    assert TOKEN not in shown
    assert "s3cret" not in shown


def test_the_use_of_a_node_is_one_line() -> None:
    used = Node(
        id="0000000001",
        state=NodeState.IN_USE,
        allocated_to="200-0000000001",
        tenant_name="acme",
        extra={"user_data": {"zuul_system": "z", "token": "s3cret"}},
    )
    assert presentation.describe_use(used) == (
        "in-use, request 200-0000000001, tenant acme, user data zuul_system=z token=redacted"
    )
