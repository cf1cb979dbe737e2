"""Records on the wire: what is read is written again, and junk is called junk."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodepool_k8s.errors import MalformedRecord
from nodepool_k8s.model import (
    Component,
    Node,
    NodeRequest,
    NodeState,
    Phase,
    Progress,
    RequestState,
    Resources,
)
from nodepool_k8s.znodes.components import encode_component, parse_component
from nodepool_k8s.znodes.encoding import DRIVER_KEY
from nodepool_k8s.znodes.ledgers import encode_ledger, parse_ledger
from nodepool_k8s.znodes.nodes import (
    driver_data_of,
    encode_node,
    has_driver_data,
    hold_expiration,
    parse_node,
    token_times,
    with_driver_data,
)
from nodepool_k8s.znodes.paths import (
    ledger_path,
    pool_of_ledger,
    progress_path,
)
from nodepool_k8s.znodes.progress import encode_progress, parse_progress
from nodepool_k8s.znodes.requests import (
    WITH_PROGRESS,
    encode_request,
    parse_request,
    refusal_reasons,
    wants_progress,
    with_reasons,
)

texts = st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
records = st.dictionaries(texts, values, max_size=5)

NODE_TYPED = {"state", "state_time", "type", "driver_data", "resources", "created_time"}
NODE_TEXTS = (
    *("provider", "pool", "launcher", "allocated_to", "tenant_name", "requestor"),
    "external_id",
)
REQUEST_KEYS = (
    *("state", "state_time", "node_types", "nodes", "requestor", "requestor_data", "provider"),
    *("relative_priority", "event_id", "tenant_name", "created_time", "declined_by"),
)


def same(value: object) -> str:
    """Equality that calls NaN equal to itself and keeps the order of keys."""
    return json.dumps(value)


@given(records, values)
def test_a_request_keeps_keys_and_data_that_are_not_ours(extra: Any, data: Any) -> None:
    raw = {
        **{key: value for key, value in extra.items() if key not in REQUEST_KEYS},
        "state": "requested",
        "node_types": ["pod"],
        "requestor_data": data,
    }
    request = parse_request("200-0000000001", json.dumps(raw).encode(), 3)
    written = json.loads(encode_request(request))
    assert request.version == 3
    for key, value in raw.items():
        assert same(written[key]) == same(value)


@given(records, st.dictionaries(texts, values, max_size=3))
def test_a_node_keeps_keys_and_driver_data_that_are_not_ours(extra: Any, data: Any) -> None:
    ours = {*NODE_TYPED, *NODE_TEXTS}
    raw = {
        **{key: value for key, value in extra.items() if key not in ours},
        "state": "ready",
        "driver_data": {key: value for key, value in data.items() if key != DRIVER_KEY},
    }
    written = json.loads(encode_node(parse_node("1", json.dumps(raw).encode(), 0)))
    assert same(written["driver_data"] or {}) == same(raw["driver_data"])
    for key in raw.keys() - ours:
        assert same(written[key]) == same(raw[key])


requests = st.builds(
    NodeRequest,
    id=st.just("200-0000000001"),
    state=st.sampled_from(RequestState),
    node_types=st.lists(texts, max_size=3).map(tuple),
    nodes=st.lists(texts, max_size=3).map(tuple),
    requestor=texts,
    requestor_data=st.none() | st.dictionaries(texts, texts),
    provider=st.none() | texts,
    relative_priority=st.integers(-1000, 1000),
    event_id=st.none() | texts,
    tenant_name=st.none() | texts,
    created_time=st.none() | st.floats(0, 1e10),
    state_time=st.floats(0, 1e10),
    declined_by=st.lists(texts, max_size=3).map(tuple),
    version=st.integers(0, 100),
)
amounts = st.dictionaries(texts, st.integers(1, 10**9), max_size=3).map(Resources)
nodes = st.builds(
    Node,
    id=st.just("0000000001"),
    state=st.sampled_from(NodeState),
    type=st.lists(texts, max_size=2).map(tuple),
    **{key: st.none() | texts for key in NODE_TEXTS},
    created_time=st.none() | st.floats(0, 1e10),
    state_time=st.floats(0, 1e10),
    claimed=st.none() | amounts,
    version=st.integers(0, 100),
)


@given(requests)
def test_a_request_survives_the_wire(request: NodeRequest) -> None:
    data = encode_request(request)
    assert parse_request(request.id, data, request.version) == request


@given(nodes)
def test_a_node_survives_the_wire(node: Node) -> None:
    read = parse_node(node.id, encode_node(node), node.version)
    for name in ("state", "type", "claimed", "created_time", "state_time", *NODE_TEXTS):
        assert getattr(read, name) == getattr(node, name)


@given(amounts)
def test_a_ledger_survives_the_wire(claimed: Resources) -> None:
    assert parse_ledger(encode_ledger(claimed)) == claimed


def test_an_empty_ledger_is_one_in_which_nothing_is_claimed() -> None:
    assert parse_ledger(b"") == Resources()


@given(texts, texts)
def test_a_ledgers_path_tells_its_pool(provider: str, pool: str) -> None:
    if "" not in (provider, pool):
        assert pool_of_ledger(ledger_path(provider, pool)) == (provider, pool)


@pytest.mark.parametrize("path", ["/nodepool-k8s/ledger/one", "/nodepool-k8s/ledger/a/b/c"])
def test_other_paths_tell_no_pool(path: str) -> None:
    assert pool_of_ledger(path) is None


# --- what is malformed ------------------------------------------------------------------------

KEYS = st.sampled_from(
    [*REQUEST_KEYS, *NODE_TEXTS, *NODE_TYPED, "id", "supported_labels", "claimed"]
)
STATES = st.sampled_from(["requested", "ready", "building", "pending"])
plausible = st.dictionaries(KEYS, values | STATES, max_size=8)
junk = st.one_of(
    st.binary(max_size=40),
    values.map(lambda value: json.dumps(value).encode()),
    plausible.map(lambda record: json.dumps(record).encode()),
    st.builds(
        lambda record, claimed: json.dumps(
            {**record, "state": "ready", "driver_data": {DRIVER_KEY: {"claimed": claimed}}}
        ).encode(),
        plausible,
        values,
    ),
)


@given(junk)
def test_whatever_a_znode_holds_it_is_read_or_called_malformed(data: bytes) -> None:
    for read in (
        lambda: encode_request(parse_request("200-0000000001", data, 0)),
        lambda: encode_node(parse_node("0000000001", data, 0)),
        lambda: parse_component("host0000000001", data),
        lambda: parse_ledger(data),
    ):
        with suppress(MalformedRecord):
            read()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"node_types": []}',
        b'{"state": "dreaming", "node_types": []}',
        b'{"state": "requested"}',
        b'{"state": "requested", "node_types": [1]}',
    ],
)
def test_a_request_that_cannot_be_served_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRecord, match="request 200-0000000001"):
        parse_request("200-0000000001", data, 0)


def test_a_request_is_named_by_priority_and_sequence() -> None:
    data = b'{"state": "requested", "node_types": []}'
    with pytest.raises(MalformedRecord, match="named"):
        parse_request("weird", data, 0)
    request = parse_request("200-0000000017", data, 0)
    assert (request.priority, request.sequence) == ("200", "0000000017")


# --- the form that others read ---------------------------------------------------------------


def test_a_node_has_every_key_that_nodepool_writes() -> None:
    node = Node("1", NodeState.READY, resources=Resources.of(instances=1))
    written = json.loads(encode_node(node))
    assert written["connection_port"] == written["ssh_port"] == 22
    assert written["resources"] == {"cores": 0, "ram": 0, "instances": 1}
    assert written["host_keys"] == []
    assert written["node_properties"] == {}
    assert written["driver_data"] is None


def test_a_component_has_what_nodepools_readers_insist_on() -> None:
    component = Component("me", "local", frozenset({"b", "a"}), 7, paused=True)
    written = json.loads(encode_component(component, hostname="host"))
    assert written == {
        "state": "running",
        "kind": "pool",
        "model_api": 0,
        "hostname": "host",
        "id": "me",
        "provider_name": "local",
        "supported_labels": ["a", "b"],
        "priority": 7,
        "paused": True,
    }
    assert parse_component("x", json.dumps(written).encode()) == component


def test_reasons_of_a_refusal_add_up() -> None:
    request = NodeRequest("200-1", RequestState.REQUESTED, ("pod",), extra={"other": 1})
    for reason in ("one", "two"):
        extra = with_reasons(request, (reason,))
        request = NodeRequest("200-1", RequestState.REQUESTED, ("pod",), extra=extra)
    assert refusal_reasons(request) == ("one", "two")
    assert request.extra["other"] == 1


@pytest.mark.parametrize("own", [None, 5, [], {"reasons": "x"}, {"reasons": None}])
def test_reasons_that_are_none_are_left_out(own: object) -> None:
    extra = {DRIVER_KEY: own}
    request = NodeRequest("200-1", RequestState.REQUESTED, ("pod",), extra=extra)
    assert refusal_reasons(request) == ()


def test_half_a_character_does_not_get_into_paths_and_tables() -> None:
    record = (
        b'{"state": "ready", "provider": "a\\ud800", "user_data": {"\\udfff": "\\ud83d\\ude00"}}'
    )
    node = parse_node("1", record, 0)
    assert (node.provider, node.extra["user_data"]) == ("a?", {"?": "\N{GRINNING FACE}"})
    assert ledger_path(node.provider or "", "main").endswith("/a%3F/main")


@pytest.mark.parametrize("claimed", [-1, True, 10**400])
def test_a_claim_of_no_amount_is_malformed(claimed: int) -> None:
    with pytest.raises(MalformedRecord, match="whole thousandths"):
        parse_ledger(json.dumps({"claimed": {"cores": claimed}}).encode())


def test_a_bottomless_record_is_malformed() -> None:
    with pytest.raises(MalformedRecord, match="nested more than 100 deep"):
        parse_node("1", b'{"state": "hold", "comment": ' + b"[" * 300 + b"]" * 300 + b"}", 0)


def test_a_hold_of_a_googol_seconds_has_no_end() -> None:
    node = Node("1", NodeState.HOLD, extra={"hold_expiration": "9" * 5000})
    assert hold_expiration(node) is None


@pytest.mark.parametrize("junk", ["never", 10**400, True, [], None])
def test_a_token_without_times_never_ends_and_has_its_nodes_age(junk: object) -> None:
    own = {"token_expires": junk, "token_issued": junk}
    node = Node("1", NodeState.READY, state_time=7.0, driver_data={DRIVER_KEY: own})
    assert token_times(node) == (None, 7.0)


PROGRESS = [
    Progress(Phase.QUEUED, "local/main", "quota: 2 of 2 instances in use, 1 needed", position=3),
    Progress(Phase.LAUNCHING, "local/main", "Pulling", node="0000000007", step="ready"),
]


@pytest.mark.parametrize("progress", PROGRESS)
def test_progress_survives_the_wire(progress: Progress) -> None:
    assert parse_progress("200-1", encode_progress(progress)) == progress


def test_progress_has_a_place_for_each_request() -> None:
    assert progress_path("200-0000000001") == "/nodepool-k8s/progress/200-0000000001"


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (b"", "is empty; expected a JSON object"),
        (b"soon", "is not JSON"),
        (b"[]", "holds a list; expected a JSON object"),
        (b"{}", "has state None; expected queued or launching"),
        (b'{"state": "asleep"}', "has state 'asleep'; expected queued or launching"),
    ],
)
def test_progress_that_cannot_be_read_says_so(record: bytes, complaint: str) -> None:
    with pytest.raises(MalformedRecord, match="the progress of request 200-1 ") as error:
        parse_progress("200-1", record)
    assert complaint in str(error.value)


@pytest.mark.parametrize("junk", ["third", 0, -1, True, 10**400, []])
def test_a_place_in_the_line_that_is_none_is_left_out(junk: object) -> None:
    record = {"state": "queued", "position": junk, "pool": 7, "why": None}
    parsed = parse_progress("200-1", json.dumps(record).encode())
    assert parsed == Progress(Phase.QUEUED, "", "")


@pytest.mark.parametrize("value", [False, 1, "true", None])
def test_only_who_says_true_wants_progress(value: object) -> None:
    asked = NodeRequest("200-1", RequestState.REQUESTED, (), extra=WITH_PROGRESS)
    assert wants_progress(asked)
    odd = NodeRequest("200-1", RequestState.REQUESTED, (), extra={"progress": value})
    assert not wants_progress(odd)


def test_driver_data_of_another_type_is_left_out() -> None:
    own = {"type": "pod", "replicas": "many", "reason": 7, "uid": "u", "more": 1, "steps": []}
    node = parse_node(
        "1", json.dumps({"state": "ready", "driver_data": {DRIVER_KEY: own}}).encode(), 0
    )
    assert driver_data_of(node) == {"type": "pod", "uid": "u"}
    assert has_driver_data(node)
    # What is not understood is kept all the same.
    added = with_driver_data(node, {"reason": "it was used"})
    assert added == {DRIVER_KEY: {**own, "reason": "it was used"}}
