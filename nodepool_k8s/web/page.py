"""The status page: HTML for people, made of the same data as ``/api/status``.

One document that needs nothing else, and reads well without styles. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

Data = Mapping[str, Any]

_STYLE = """
body { font: 15px/1.4 sans-serif; margin: 1.5em; }
table { border-collapse: collapse; margin: .5em 0 1.5em; }
th, td { border: 1px solid #bbb; padding: .2em .6em; text-align: left; vertical-align: top; }
th { background: #eee; }
"""


def render(status: Data, links: Sequence[str]) -> str:
    """The page. ``links`` are paths to name at its end."""
    launches = list(_launches(status["in_flight"]))
    unseen = status["in_flight_count"] - len(status["in_flight"])
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>nodepool-k8s</title>',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>nodepool-k8s {_text(status['version'])}</h1>",
        *_readiness(status),
        *_section("Pools", _POOLS, status["pools"], len(status["pools"])),
        *_section("Providers", _PROVIDERS, status["providers"], len(status["providers"])),
        *_section("Requests that wait", _WAITING, status["waiting"], status["waiting_count"]),
        *_section("Requests being served", _SERVED, launches, len(launches) + unseen),
        *_section("Last failures", _FAILURES, status["failures"], len(status["failures"])),
        *_section("Stuck namespaces", _STUCK, status["stuck"], len(status["stuck"])),
        "<h2>More</h2><p>",
        " ".join(f'<a href="{escape(path)}">{escape(path)}</a>' for path in links),
        '<a href="/api/status">/api/status</a> <a href="/metrics">/metrics</a></p></body></html>',
    ]
    return "\n".join(parts) + "\n"


def _readiness(status: Data) -> Iterable[str]:
    if not status["obstacles"]:
        yield "<p>Ready.</p>"
    else:
        yield "<p>Not ready:</p><ul>"
        yield from (f"<li>{_text(each)}</li>" for each in status["obstacles"])
        yield "</ul>"
    for what in ("nodes", "requests"):
        counts = ", ".join(f"{count} {state}" for state, count in status[what].items())
        yield f"<p>{what.capitalize()}: {_text(counts or 'none')}</p>"


# Heading, and what of a row is shown below it.
_Columns = Sequence[tuple[str, str]]

_POOLS: _Columns = (
    ("Pool", "pool"),
    ("Priority", "priority"),
    ("Used", "used"),
    ("Paused", "paused"),
    ("Waiting", "waiting"),
    ("Waits for", "waits_for"),
    ("Labels", "labels"),
)
_PROVIDERS: _Columns = (
    ("Provider", "provider"),
    ("Context", "context"),
    ("In touch", "in_touch"),
    ("Trouble", "trouble"),
    ("Launches", "launches"),
    ("Max-concurrency", "max_concurrency"),
)
_WAITING: _Columns = (
    ("Request", "request"),
    ("Age", "age"),
    ("Requestor", "requestor"),
    ("Labels", "labels"),
    ("Pool", "pool"),
    ("Waits for", "waits_for"),
)
_SERVED: _Columns = (
    ("Request", "request"),
    ("Age", "age"),
    ("Requestor", "requestor"),
    ("Pool", "pool"),
    ("Node", "node"),
    ("Label", "label"),
    ("Namespace", "namespace"),
    ("Waits for", "waits_for"),
    ("Last attempt", "failure"),
)
_FAILURES: _Columns = (
    ("Ago", "age"),
    ("Request", "request"),
    ("Node", "node"),
    ("Labels", "labels"),
    ("Reason", "reason"),
)
_STUCK: _Columns = (
    ("Namespace", "namespace"),
    ("Provider", "provider"),
    ("Node", "node"),
    ("For", "age"),
    ("Held by", "reason"),
)


def _section(title: str, columns: _Columns, rows: Sequence[Data], count: int) -> Iterable[str]:
    yield f"<h2>{title}</h2>"
    if not rows:
        yield "<p>None.</p>"
        return
    headings = "".join(f"<th>{heading}</th>" for heading, _ in columns)
    yield f"<table><thead><tr>{headings}</tr></thead><tbody>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{_cell(row, key)}</td>" for _, key in columns) + "</tr>"
    yield "</tbody></table>"
    if count > len(rows):
        yield f"<p>And {count - len(rows)} more.</p>"


def _launches(requests: Iterable[Data]) -> Iterable[Data]:
    """A row for each node that is being launched."""
    for request in requests:
        for node in request["nodes"]:
            yield {**request, **node}


def _cell(row: Data, key: str) -> str:
    if key == "used":
        return "<br>".join(_amount(name, amount) for name, amount in row["resources"].items())
    return _text(row.get(key))


def _amount(name: str, amount: Data) -> str:
    limit = "no limit" if amount["limit"] is None else f"of {amount['limit']}"
    return _text(f"{name}: {amount['used']} {limit}")


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return escape(", ".join(map(str, value)))
    return escape(str(value))
