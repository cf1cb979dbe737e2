"""Traces: what the environment asks for, Zuul's span continued, nothing imported in vain."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from nodepool_k8s import telemetry
from nodepool_k8s.config.settings import Pool
from nodepool_k8s.drivers.outcomes import Failure
from nodepool_k8s.errors import LaunchError
from nodepool_k8s.model import NodeRequest, RequestState
from nodepool_k8s.telemetry import tracing
from nodepool_k8s.telemetry.statsd import BadEnvironment
from tests.support.otlp import Collector, attributes

POOL = Pool("cloud", "main", {})
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0x00F067AA0BA902B7


def span_info(**changes: Any) -> dict[str, Any]:
    """What Zuul puts into a request's ``requestor_data``."""
    info = {
        "name": "RequestNodes",
        "trace_id": TRACE,
        "span_id": SPAN,
        "trace_flags": 1,
        "start_time": 1_700_000_000_000_000_000,
        "parent": None,
    }
    return {"span_info": {**info, **changes}}


def request(data: Any = None, state: RequestState = RequestState.REQUESTED) -> NodeRequest:
    return NodeRequest(
        "200-1",
        state,
        ("pod",),
        requestor="zuul",
        requestor_data=data,
        tenant_name="tenant",
        event_id="e1",
    )


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.stop()


def one_request(data: Any, *, fails: bool = False) -> None:
    """A request's way, as the launcher tells it."""
    claimed = request(data)
    telemetry.request_claimed(claimed, POOL)
    figures = telemetry.LaunchFigures(claimed, POOL, "pod", "0000000001")
    try:
        with figures.launching():
            figures.attempt_begins()
            if fails:
                reason = "ErrImagePull: no such image"
                figures.attempt_failed(Failure.IMAGE, reason, {"namespace": 0.01})
                raise LaunchError(reason, failure=Failure.IMAGE)
            figures.ready({"namespace": 0.01, "objects": 0.02, "ready": 0.5})
    except LaunchError as error:
        telemetry.request_ended(request(state=RequestState.FAILED), POOL, str(error))
    else:
        telemetry.request_ended(request(state=RequestState.FULFILLED), POOL)


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def identity(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def test_zuuls_span_is_continued_down_to_the_steps(spans: InMemorySpanExporter) -> None:
    one_request(span_info())
    found = by_name(spans)
    assert list(found) == [
        "namespace",
        "objects",
        "ready",
        "Attempt",
        "LaunchNode",
        "FulfilRequest",
    ]
    for span in found.values():
        context = span.get_span_context()
        assert context is not None
        assert context.trace_id == TRACE
        assert span.status.status_code is StatusCode.UNSET
    assert parent_of(found["FulfilRequest"]) == SPAN
    assert parent_of(found["LaunchNode"]) == identity(found["FulfilRequest"])
    assert parent_of(found["Attempt"]) == identity(found["LaunchNode"])
    for step in ("namespace", "objects", "ready"):
        assert parent_of(found[step]) == identity(found["Attempt"])


def test_spans_say_what_they_are_about(spans: InMemorySpanExporter) -> None:
    one_request(span_info())
    found = by_name(spans)
    assert found["FulfilRequest"].attributes == {
        "nodepool.request": "200-1",
        "nodepool.provider": "cloud",
        "nodepool.pool": "main",
        "nodepool.labels": ("pod",),
        "nodepool.requestor": "zuul",
        "nodepool.tenant": "tenant",
        "nodepool.event_id": "e1",
        "nodepool.outcome": "fulfilled",
    }
    assert found["Attempt"].attributes == {
        "nodepool.provider": "cloud",
        "nodepool.pool": "main",
        "nodepool.label": "pod",
        "nodepool.node": "0000000001",
        "nodepool.attempt": 1,
    }


def test_steps_follow_one_another(spans: InMemorySpanExporter) -> None:
    one_request(None)
    found = by_name(spans)
    first, second, third = (found[name] for name in ("namespace", "objects", "ready"))
    assert first.start_time == found["Attempt"].start_time
    assert (first.end_time, second.end_time) == (second.start_time, third.start_time)
    assert second.start_time is not None
    assert first.start_time is not None
    assert second.start_time - first.start_time == 10_000_000


def test_a_failure_is_on_every_span_above_it(spans: InMemorySpanExporter) -> None:
    one_request(span_info(), fails=True)
    found = by_name(spans)
    for name in ("Attempt", "LaunchNode", "FulfilRequest"):
        assert found[name].status.status_code is StatusCode.ERROR
        assert "no such image" in (found[name].status.description or "")
    assert (found["LaunchNode"].attributes or {})["nodepool.outcome"] == "image"
    assert (found["FulfilRequest"].attributes or {})["nodepool.outcome"] == "failed"


def test_what_zuul_does_not_sample_is_not_sampled_here(spans: InMemorySpanExporter) -> None:
    one_request(span_info(trace_flags=0))
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize(
    "data",
    [
        None,
        "text",
        [],
        {},
        {"span_info": None},
        {"span_info": "00-0af7-00f0-01"},
        {"span_info": {}},
        span_info(trace_id="0af7651916cd43dd8448eb211c80319c"),
        span_info(trace_id=0),
        span_info(trace_id=1 << 128),
        span_info(span_id=-1),
        span_info(span_id=None),
    ],
    ids=str,
)
def test_where_there_is_no_usable_span_ours_is_the_root(
    data: Any, spans: InMemorySpanExporter
) -> None:
    one_request(data)
    assert by_name(spans)["FulfilRequest"].parent is None


def test_flags_that_are_none_mean_sampled(spans: InMemorySpanExporter) -> None:
    one_request(span_info(trace_flags="?"))
    assert parent_of(by_name(spans)["FulfilRequest"]) == SPAN


# --- the environment ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, None),
        ({ENDPOINT: " "}, None),
        ({ENDPOINT: "http://c:4318"}, "otlp_proto_http"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, "otlp_proto_http"),
        ({ENDPOINT: "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_grpc"),
        ({ENDPOINT: "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({ENDPOINT: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp_proto_http"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
    ],
)
def test_which_exporter_the_environment_asks_for(environ: dict[str, str], name: str | None) -> None:
    assert tracing.exporter_name(environ) == name


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp,console"}, "name one"),
        ({ENDPOINT: "x", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "http/protobuf, grpc"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin .* is not installed; there are: .*console"),
    ],
)
def test_what_cannot_be_used_is_named(environ: dict[str, str], told: str) -> None:
    with pytest.raises(BadEnvironment, match=told):
        tracing.start(environ)


def test_spans_arrive_at_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    with Collector() as collector:
        monkeypatch.setenv(ENDPOINT, collector.endpoint)
        tracing.start({ENDPOINT: collector.endpoint})
        one_request(span_info())
        tracing.stop()
    (span,) = collector.named("FulfilRequest")
    assert span.trace_id == TRACE.to_bytes(16, "big")
    assert span.parent_span_id == SPAN.to_bytes(8, "big")
    assert attributes(span)["nodepool.request"] == "200-1"
    assert {resource["service.name"] for resource in collector.resources} == {"nodepool-k8s"}


WITHOUT = """
import sys
from nodepool_k8s import telemetry
from nodepool_k8s.config.settings import Pool
from nodepool_k8s.model import NodeRequest, RequestState
telemetry.start({environ})
request = NodeRequest("200-1", RequestState.FULFILLED, ("pod",))
telemetry.request_claimed(request, Pool("cloud", "main", {{}}))
telemetry.request_ended(request, Pool("cloud", "main", {{}}))
print(sorted(name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "statsd")))
"""


def run(environ: dict[str, str], before: str = "") -> subprocess.CompletedProcess[str]:
    code = before + WITHOUT.format(environ=environ)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_without_configuration_nothing_is_imported() -> None:
    ran = run({})
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def test_without_the_extra_it_is_said_and_goes_on() -> None:
    # What an import of a package finds that is not there.
    ran = run({ENDPOINT: "http://c:4318"}, "import sys; sys.modules['opentelemetry.sdk'] = None")
    assert ran.returncode == 0, ran.stderr
    assert "pip install 'nodepool-k8s[tracing]'" in ran.stderr
