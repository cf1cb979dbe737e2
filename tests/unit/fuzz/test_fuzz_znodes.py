"""Records as anybody may have written them: read and written again, shown, and judged.

What cannot be read is malformed. What can be read nobody stumbles over later: neither who
writes it again nor who counts, orders or shows it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nodepool_k8s import presentation
from nodepool_k8s.errors import MalformedRecord
from nodepool_k8s.model import (
    Node,
    NodeRequest,
    NodeState,
    ProviderCluster,
    RequestState,
    Resources,
)
from nodepool_k8s.policy import upkeep
from nodepool_k8s.redaction import redact_record
from nodepool_k8s.web import formats
from nodepool_k8s.web.lists import NODES, REQUESTS
from nodepool_k8s.znodes.components import parse_component
from nodepool_k8s.znodes.encoding import DRIVER_KEY
from nodepool_k8s.znodes.ledgers import parse_ledger
from nodepool_k8s.znodes.nodes import encode_node, parse_node, provider_cluster_of, without_secrets
from nodepool_k8s.znodes.paths import ledger_path, tenant_ledger_path
from nodepool_k8s.znodes.progress import parse_progress
from nodepool_k8s.znodes.provider_clusters import encode_provider_cluster, parse_provider_cluster
from nodepool_k8s.znodes.requests import (
    encode_request,
    is_own_spare,
    parse_request,
    wants_reuse,
    with_reasons,
)
from tests.support.fuzzing import TOKEN, fuzzed, texts, values

NODE_KEYS = st.sampled_from(
    [
        *("state_time", "type", "provider", "pool", "launcher", "allocated_to", "tenant_name"),
        *("requestor", "external_id", "created_time", "resources", "driver_data", "extra"),
        *("hold_expiration", "comment", "user_data", "connection_port", "hostname"),
    ]
)
REQUEST_KEYS = st.sampled_from(
    [
        *("state_time", "nodes", "requestor", "requestor_data", "provider", "relative_priority"),
        *("event_id", "tenant_name", "created_time", "declined_by", "reuse", DRIVER_KEY),
    ]
)
OWN = st.dictionaries(
    st.sampled_from(["claimed", "tenant", "reason", "reasons", "cluster", "spare"]), values
)


@fuzzed(150)
@given(
    st.sampled_from(NodeState),
    st.dictionaries(NODE_KEYS, values, max_size=5),
    st.none() | OWN,
)
@example(NodeState.READY, {"provider": "\ud800", "pool": "main"}, None)
@example(NodeState.HOLD, {"hold_expiration": "9" * 5000}, None)
@example(NodeState.READY, {"connection_port": "9" * 5000}, None)
@example(NodeState.READY, {}, {"claimed": {"cores": -1}})
@example(NodeState.READY, {}, {"claimed": {"cores": 10**400}})
def test_a_node_that_can_be_read_is_of_use(
    state: NodeState, raw: dict[str, Any], own: dict[str, Any] | None
) -> None:
    record = {**raw, "state": state.value}
    if own is not None:
        record["driver_data"] = {DRIVER_KEY: own}
    try:
        node = parse_node("0000000001", json.dumps(record).encode(), 3)
    except MalformedRecord:
        return
    again = parse_node(node.id, encode_node(node), 3)
    assert again.claimed == node.claimed
    assert again.extra.items() >= {key: again.extra[key] for key in node.extra}.items()
    use_node(node)
    use_node(without_secrets(node))


def use_node(node: Node) -> None:
    """All that is done to a node by those who only read it."""
    for amounts in (node.claimed, node.resources):
        assert all(amount > 0 for amount in (amounts or Resources()).values())
        assert (amounts or Resources()).numbers() is not None
    ledger_path(node.provider or "", node.pool or "")
    tenant_ledger_path(node.tenant_name or "")
    tenant_ledger_path(node.counted_for or "")
    provider_cluster_of(node)
    upkeep.why_delete(node, locked=False, now=5.0, ages=upkeep.Ages(1.0, 1.0), unusable=None)
    shows_well(presentation.node_row(node, locked=True, now=1e9), list(NODES.columns))
    presentation.describe_use(node)


@fuzzed(150)
@given(
    st.sampled_from(RequestState),
    st.lists(texts, max_size=2) | values,
    st.dictionaries(REQUEST_KEYS, values, max_size=5),
)
def test_a_request_that_can_be_read_is_of_use(
    state: RequestState, labels: Any, raw: dict[str, Any]
) -> None:
    record = {**raw, "state": state.value, "node_types": labels}
    try:
        request = parse_request("200-0000000001", json.dumps(record).encode(), 3)
    except MalformedRecord:
        return
    again = parse_request(request.id, encode_request(request), 3)
    assert repr(again) == repr(request)
    shows_well(presentation.request_row(request, now=1e9), list(REQUESTS.columns))
    with_reasons(request, ("no",))
    is_own_spare(request)
    wants_reuse(request)


def shows_well(row: presentation.Row, columns: list[str]) -> None:
    """As JSON and as a line of a table."""
    json.loads(formats.dump(row), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    for key in columns:
        assert formats._cell(row[key]).isprintable()
        formats._cell(row[key]).encode()


@fuzzed(150)
@given(st.binary(max_size=30) | values.map(lambda value: json.dumps(value).encode()))
@example(b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}")
@example('{"state": "ready"}'.encode("utf-16"))
def test_bytes_are_read_or_malformed(data: bytes) -> None:
    for read in (
        lambda: parse_request("200-1", data, 0),
        lambda: parse_node("1", data, 0),
        lambda: parse_component("host-1", data),
        lambda: parse_ledger(data),
        lambda: parse_provider_cluster("home", data),
        lambda: parse_progress("200-1", data),
    ):
        with suppress(MalformedRecord):
            read()


@fuzzed(60)
@given(texts.filter(bool), st.none() | texts, texts.filter(bool))
def test_a_home_survives_the_wire(provider: str, context: str | None, cluster: str) -> None:
    home = ProviderCluster(provider, context, cluster)
    assert parse_provider_cluster("home", encode_provider_cluster(home)) == home


NUMBERS_OF_OTHERS = st.dictionaries(texts, st.floats() | st.integers(-5, 5), max_size=3)


@fuzzed(60)
@given(NUMBERS_OF_OTHERS)
def test_nobody_makes_room_with_less_than_nothing(numbers: dict[str, float]) -> None:
    record = {"state": "ready", "resources": numbers}
    node = parse_node("1", json.dumps(record).encode(), 0)
    assert node.resources is not None
    assert all(amount > 0 for amount in node.resources.values())


# --- secrets -------------------------------------------------------------------------------------

SECRET_KEYS = st.sampled_from(
    ["token", "bearer_token", "password", "client-key-data", "secret", "kubeconfig", "key"]
)
KEY_FILE = "-----BEGIN RSA PRIVATE KEY-----\nMIIhidden\n-----END RSA PRIVATE KEY-----"


@st.composite
def with_secrets(draw: st.DrawFn, depth: int = 4) -> Any:
    """A value with a token, a key or a password somewhere in it, perhaps several."""
    kind = draw(st.integers(0, 6 if depth else 3))
    before, after = draw(st.sampled_from(["", " ", "(", "Bearer ", "\n"])), draw(texts)
    if kind == 0:
        return f"{before}{TOKEN} {after}"
    if kind == 1:
        return f"{before}{KEY_FILE}{after}"
    if kind == 2:
        return {draw(SECRET_KEYS): draw(st.sampled_from(["hidden", ["hidden"], {"a": "hidden"}]))}
    if kind == 3:
        return {f"{before}{TOKEN}": draw(values)}
    inner = draw(with_secrets(depth=depth - 1))
    if kind == 4:
        return [draw(values), inner]
    return {draw(texts): inner, "more": draw(values)} if kind == 5 else (inner,)


@fuzzed(200)
@given(with_secrets(), st.sampled_from(["comment", "user_data", "driver_data", "connection_port"]))
def test_no_secret_survives_however_deep(value: Any, key: str) -> None:
    for shown in (
        redact_record({"a": value}),
        presentation.node_row(Node("1", NodeState.READY, extra={key: value}), False, 0),
        presentation.node_row(Node("1", NodeState.READY, driver_data={"a": value}), False, 0),
    ):
        for secret in ("hidden", TOKEN, TOKEN.rpartition(".")[2]):
            assert secret not in repr(shown)


@fuzzed(60)
@given(st.lists(with_secrets(), max_size=2))
def test_no_secret_is_in_a_reason(reasons: list[Any]) -> None:
    extra = {DRIVER_KEY: {"reasons": [f"{reason}" for reason in reasons]}}
    request = NodeRequest("200-1", RequestState.FAILED, ("pod",), extra=extra)
    assert TOKEN not in repr(presentation.request_row(request, 0))
