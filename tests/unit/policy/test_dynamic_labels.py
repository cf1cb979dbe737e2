"""Dynamic labels: whatever the admin and the request say, a launch goes on."""

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodepool_k8s.model import NodeRequest, RequestState
from nodepool_k8s.policy.dynamic_labels import dynamic_labels

VALID = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")

REQUEST = NodeRequest(
    id="200-0000000042",
    state=RequestState.REQUESTED,
    node_types=("pod-fedora", "kubernetes-namespace"),
    requestor="NodePool:min-ready",
    requestor_data={
        "job_name": "unit tests/py3.11",
        "build_set_uuid": "abc",
        "nested": {"x.y": ["a", "b"]},
    },
    relative_priority=3,
    event_id="e0",
    tenant_name="a" * 100,
    created_time=1700000000.25,
)


def one(text: str) -> str | None:
    labels, warnings = dynamic_labels({"key": text}, REQUEST)
    assert bool(labels) != bool(warnings)
    return labels.get("key")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{request.id}", "200-0000000042"),
        ("{request.labels[0]}", "pod-fedora"),
        ("{request.labels}", "pod-fedora----kubernetes-namespace"),
        ("{request.requestor}", "NodePool-min-ready"),
        ("{request.requestor_data[job_name]}", "unit-tests-py3.11"),
        ("{request.requestor_data[nested][x.y][1]}", "b"),
        ("{request.relative_priority:03d}", "003"),
        ("{request.event_id}", "e0"),
        ("{request.created_time:.0f}", "1700000000"),
        ("{request.tenant_name}", "a" * 63),
        ("job-{request.id}!", "job-200-0000000042"),
        ("{request.id!r}", "200-0000000042"),
        ("plain", "plain"),
        ("{{braces}}", "braces"),
        ("", ""),
    ],
)
def test_values_are_formatted_and_made_valid(text: str, value: str) -> None:
    assert one(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "{request.requestor_data[no_such]}",
        "{request.labels[2]}",
        "{request.labels[-1]}",
        "{request.no_such}",
        "{request}",
        "{request.id.upper}",
        "{request.__class__}",
        "{request.id.__class__.__mro__}",
        "{request.labels.append}",
        "{request[id]}",
        "{other}",
        "{}",
        "{0}",
        "{request.id",
        "request.id}",
        "{request.id:d}",
        "{request.id:>999999999}",
        "{request.relative_priority:.999999999f}",
        "{request.id:{request.created_time}}",
        "{request.requestor_data[" + "[" * 5000 + "]}",
        "***",
    ],
)
def test_what_cannot_be_made_is_left_out_and_said(text: str) -> None:
    labels, warnings = dynamic_labels({"good": "{request.id}", "key": text}, REQUEST)
    assert labels == {"good": REQUEST.id}
    assert len(warnings) == 1
    assert warnings[0].startswith("dynamic label key is left out: ")
    assert len(warnings[0]) < 300


def test_null_data_of_nodepools_own_requests() -> None:
    own = NodeRequest(id="900-0000000001", state=RequestState.REQUESTED, node_types=("x",))
    labels, warnings = dynamic_labels(
        {"job": "{request.requestor_data[job_name]}", "id": "{request.id}"}, own
    )
    assert labels == {"id": "900-0000000001"}
    assert len(warnings) == 1


def test_a_key_that_kubernetes_refuses_is_left_out() -> None:
    labels, warnings = dynamic_labels({"bad key": "x", "example.com/ok": "x"}, REQUEST)
    assert labels == {"example.com/ok": "x"}
    assert len(warnings) == 1


def test_without_a_request_there_is_nothing_to_format() -> None:
    assert dynamic_labels({"key": "{request.id}"}, None) == ({}, [])


def test_a_width_cannot_eat_the_memory() -> None:
    tracemalloc.start()
    try:
        dynamic_labels({"key": "{request.id:>99999999}" * 10}, REQUEST)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


FIELDS = st.sampled_from(
    ["{", "}", "request", ".", "id", "[", "]", "!", "r", ":", ">", "9", "labels", "__class__", "0"]
)


@given(st.lists(FIELDS | st.text(max_size=3)).map("".join))
def test_no_format_string_raises_or_makes_an_invalid_value(text: str) -> None:
    labels, _ = dynamic_labels({"key": text}, REQUEST)
    for value in labels.values():
        assert VALID.fullmatch(value)
