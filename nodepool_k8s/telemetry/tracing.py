"""OpenTelemetry spans of a request, below the span that Zuul sends with it.

An extra (``tracing``), used only when the standard environment variables name an exporter.
Otherwise nothing is imported and every call returns at once.

Zuul puts its own span, ``RequestNodes``, into a request as ``span_info``. Ours hang below:
``FulfilRequest``, in it a ``LaunchNode`` for each node, in that each ``Attempt``, and in
that its steps.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final

from nodepool_k8s import __version__
from nodepool_k8s.model import NodeRequest
from nodepool_k8s.telemetry.statsd import BadEnvironment

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger(__name__)

SERVICE: Final = "nodepool-k8s"
NANO: Final = 1_000_000_000
GROUP: Final = "opentelemetry_traces_exporter"

_provider: TracerProvider | None = None
_tracer: Tracer | None = None
_request: ContextVar[Span | None] = ContextVar("request_span", default=None)


# --- from the environment --------------------------------------------------------------------


def exporter_name(environ: Mapping[str, str]) -> str | None:
    """Which exporter the environment asks for (a name of its entry point); None: none.

    Raises BadEnvironment where more than one is named.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    named = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if not named:
        endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        named = "otlp" if any(environ.get(name, "").strip() for name in endpoints) else "none"
    if "," in named:
        raise BadEnvironment(f"OTEL_TRACES_EXPORTER is {named!r}; name one exporter")
    return None if named == "none" else _protocol(environ) if named == "otlp" else named


def _protocol(environ: Mapping[str, str]) -> str:
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((environ[name] for name in names if environ.get(name)), "http/protobuf")
    known = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
    if protocol not in known:
        raise BadEnvironment(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; it has to be one of {', '.join(known)}"
        )
    return known[protocol]


def start(environ: Mapping[str, str]) -> None:
    """Begin to trace, if the environment asks for it. Raises BadEnvironment."""
    name = exporter_name(environ)
    if name is None:
        return
    try:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning(
            "The environment asks for traces, which need the extra: pip install "
            "'nodepool-k8s[tracing]'; continuing without traces"
        )
        return
    provider = _new_provider(environ)
    provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    use(provider)


def _exporter(name: str) -> SpanExporter:
    found: list[EntryPoint] = list(entry_points(group=GROUP, name=name))
    if not found:
        installed = ", ".join(sorted({entry.name for entry in entry_points(group=GROUP)}))
        raise BadEnvironment(
            f"the OpenTelemetry exporter {name} that the environment asks for is not installed; "
            f"there are: {installed}"
        )
    exporter: SpanExporter = found[0].load()()
    return exporter


def _new_provider(environ: Mapping[str, str]) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    attributes = {} if named else {"service.name": SERVICE}
    resource = Resource.create({**attributes, "service.version": __version__})
    # ``stop`` sends what is left, before the interpreter exits.
    return TracerProvider(resource=resource, shutdown_on_exit=False)


def use(provider: TracerProvider | None) -> None:
    """Trace with that provider from now on; None: do not trace."""
    global _provider, _tracer
    _provider = provider
    _tracer = provider.get_tracer("nodepool_k8s", __version__) if provider else None


def stop() -> None:
    """Send what is left and end; blocks while the exporter does."""
    provider = _provider
    use(None)
    if provider is not None:
        provider.shutdown()


# --- requests --------------------------------------------------------------------------------


def request_begins(request: NodeRequest, provider: str, pool: str) -> None:
    """Begin the span of a claimed request; this task's launches hang below it."""
    if _tracer is None:
        return
    _request.set(
        _tracer.start_span(
            "FulfilRequest",
            context=_context_of(request),
            attributes={
                "nodepool.request": request.id,
                "nodepool.provider": provider,
                "nodepool.pool": pool,
                "nodepool.labels": list(request.node_types),
                "nodepool.requestor": request.requestor,
                "nodepool.tenant": request.tenant_name or "",
                "nodepool.event_id": request.event_id or "",
            },
        )
    )


def request_ends(outcome: str, reason: str = "") -> None:
    """End the span of this task's request; with a ``reason`` it failed."""
    span = _request.get()
    if span is not None:
        _request.set(None)
        span.set_attribute("nodepool.outcome", outcome)
        _end(span, reason)


def _context_of(request: NodeRequest) -> Context | None:
    """The span that the requestor sent along, to hang ours below; None: ours is the root."""
    from opentelemetry import trace

    data = request.requestor_data
    info = data.get("span_info") if isinstance(data, dict) else None
    if not isinstance(info, dict):
        return None
    trace_id, span_id = _id(info.get("trace_id"), 128), _id(info.get("span_id"), 64)
    if not (trace_id and span_id):
        return None
    flags = info.get("trace_flags")
    sampled = flags & 0xFF if isinstance(flags, int) else trace.TraceFlags.SAMPLED
    parent = trace.SpanContext(
        trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(sampled)
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent))


def _id(value: Any, bits: int) -> int:
    """The value, if it can be an id of that many bits; else 0, which is none."""
    return value if isinstance(value, int) and 0 < value < 1 << bits else 0


# --- launches --------------------------------------------------------------------------------


class LaunchTrace:
    """The spans of one node's launch."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self._attributes = attributes
        self._span: Span | None = None

    def begins(self) -> None:
        """The launch begins, below the span of this task's request."""
        if _tracer is not None:
            self._span = _tracer.start_span(
                "LaunchNode", context=_below(_request.get()), attributes=dict(self._attributes)
            )

    def attempted(
        self, number: int, seconds: float, steps: Mapping[str, float], reason: str = ""
    ) -> None:
        """An attempt ended just now, that took so long; with a ``reason`` it failed."""
        if _tracer is None or self._span is None:
            return
        end = time.time_ns()
        start = end - int(seconds * NANO)
        span = _tracer.start_span(
            "Attempt",
            context=_below(self._span),
            start_time=start,
            attributes={**self._attributes, "nodepool.attempt": number},
        )
        for name, took in steps.items():
            step = _tracer.start_span(name, context=_below(span), start_time=start)
            start += int(took * NANO)
            step.end(start)
        _end(span, reason, end)

    def ends(self, outcome: str, reason: str = "") -> None:
        """The launch ended; with a ``reason`` it failed."""
        span, self._span = self._span, None
        if span is not None:
            span.set_attribute("nodepool.outcome", outcome)
            _end(span, reason)


def _below(span: Span | None) -> Context | None:
    if span is None:
        return None
    from opentelemetry import trace

    return trace.set_span_in_context(span)


def _end(span: Span, reason: str, end: int | None = None) -> None:
    if reason:
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR, reason))
    span.end(end)
