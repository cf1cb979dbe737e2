"""The status page: HTML for people, made from the same snapshot as ``/api/status``.

One document that loads nothing, and is readable without styles. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from nodepool_k8s.model import NodeState, RequestState, whole_units
from nodepool_k8s.presentation import age
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

_STYLE = """
body { font: 15px/1.4 sans-serif; margin: 1.5em; }
table { border-collapse: collapse; margin: .5em 0 1.5em; }
th, td { border: 1px solid #bbb; padding: .2em .6em; text-align: left; vertical-align: top; }
th { background: #eee; }
"""


def render(snapshot: LauncherSnapshot, links: Sequence[str]) -> str:
    """The page. ``links`` are paths to name at its end."""
    now = snapshot.taken_at
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>nodepool-k8s</title>',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>nodepool-k8s {_text(snapshot.version)}</h1>",
        *_readiness(snapshot),
        *_section("Pools", _POOLS, map(_pool, snapshot.pools)),
        *_section("Providers", _PROVIDERS, map(_provider, snapshot.providers)),
        *_section(
            "Requests that wait",
            _WAITING,
            (_waiting(request, now) for request in snapshot.waiting),
            unseen=snapshot.waiting_count - len(snapshot.waiting),
        ),
        *_section(
            "Requests being served",
            _SERVED,
            (_launching(request, node, now) for request, node in _launches(snapshot)),
            unseen=snapshot.in_flight_count - len(snapshot.in_flight),
        ),
        *_section("Last failures", _FAILURES, (_failure(each, now) for each in snapshot.failures)),
        *_section("Stuck namespaces", _STUCK, (_stuck(each, now) for each in snapshot.stuck)),
        "<h2>More</h2><p>",
        " ".join(f'<a href="{escape(path)}">{escape(path)}</a>' for path in links),
        '<a href="/api/status">/api/status</a> <a href="/metrics">/metrics</a></p></body></html>',
    ]
    return "\n".join(parts) + "\n"


def _readiness(snapshot: LauncherSnapshot) -> Iterable[str]:
    if not snapshot.obstacles:
        yield "<p>Ready.</p>"
    else:
        yield "<p>Not ready:</p><ul>"
        yield from (f"<li>{_text(each)}</li>" for each in snapshot.obstacles)
        yield "</ul>"
    yield f"<p>Nodes: {_counts(snapshot.records.nodes_by_state())}</p>"
    yield f"<p>Requests: {_counts(snapshot.records.requests_by_state())}</p>"


def _counts(by_state: Mapping[NodeState, int] | Mapping[RequestState, int]) -> str:
    return _text(", ".join(f"{count} {state}" for state, count in by_state.items()) or "none")


# --- sections: headings, and the cells of a row -------------------------------------------

_Cells = tuple[object, ...]

_POOLS = ("Pool", "Priority", "Used", "Paused", "Waiting", "Waits for", "Labels")


def _pool(pool: PoolSnapshot) -> _Cells:
    used = tuple(map(_amount, pool.resources))
    return (
        pool.key,
        pool.priority,
        _Lines(used),
        pool.paused,
        pool.waiting,
        pool.waits_for,
        pool.labels,
    )


_PROVIDERS = ("Provider", "Context", "In touch", "Trouble", "Launches", "Max-concurrency")


def _provider(provider: ProviderSnapshot) -> _Cells:
    return (
        provider.name,
        provider.context,
        provider.in_touch,
        provider.trouble,
        provider.launches,
        provider.max_concurrency,
    )


_WAITING = ("Request", "Age", "Requestor", "Labels", "Pool", "Waits for")


def _waiting(request: WaitingRequest, now: float) -> _Cells:
    return (
        request.id,
        age(request.created_at, now),
        request.requestor,
        request.labels,
        request.pool,
        request.waits_for,
    )


_SERVED = (
    "Request",
    "Age",
    "Requestor",
    "Pool",
    "Node",
    "Label",
    "Namespace",
    "Waits for",
    "Last attempt",
)


def _launches(snapshot: LauncherSnapshot) -> Iterable[tuple[ServedRequest, LaunchingNode]]:
    return ((request, node) for request in snapshot.in_flight for node in request.nodes)


def _launching(request: ServedRequest, node: LaunchingNode, now: float) -> _Cells:
    return (
        request.id,
        age(request.created_at, now),
        request.requestor,
        request.pool,
        node.id,
        node.label,
        node.external_id,
        node.waits_for,
        node.failure,
    )


_FAILURES = ("Ago", "Request", "Node", "Labels", "Reason")


def _failure(failure: RecentFailure, now: float) -> _Cells:
    return (
        age(failure.at, now),
        failure.request_id,
        failure.node_id,
        failure.labels,
        failure.reason,
    )


_STUCK = ("Namespace", "Provider", "Node", "For", "Held by")


def _stuck(deletion: StuckDeletion, now: float) -> _Cells:
    return (
        deletion.external_id,
        deletion.provider,
        deletion.node_id,
        age(deletion.since, now),
        deletion.held_by,
    )


def _section(
    title: str, headings: Sequence[str], rows: Iterable[_Cells], unseen: int = 0
) -> Iterable[str]:
    yield f"<h2>{title}</h2>"
    lines = ["<tr>" + "".join(f"<td>{_cell(each)}</td>" for each in row) + "</tr>" for row in rows]
    if not lines:
        yield "<p>None.</p>"
        return
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    yield f"<table><thead><tr>{head}</tr></thead><tbody>"
    yield from lines
    yield "</tbody></table>"
    if unseen > 0:
        yield f"<p>And {unseen} more.</p>"


class _Lines(tuple[str, ...]):
    """Texts that a cell shows one below the other."""

    __slots__ = ()


def _amount(usage: ResourceUsage) -> str:
    limit = "no limit" if usage.limit is None else f"of {whole_units(usage.limit)}"
    return f"{usage.name}: {whole_units(usage.used)} {limit}"


def _cell(value: object) -> str:
    return "<br>".join(map(_text, value)) if isinstance(value, _Lines) else _text(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return escape(", ".join(map(str, value)))
    return escape(str(value))
