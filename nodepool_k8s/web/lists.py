"""The lists that clients can request: their columns, their filters, and their rows.

Columns and headings are those of Nodepool's own lists, in its order. Keys beyond them
are in JSON, and in a table whose ``fields`` name them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nodepool_k8s import presentation
from nodepool_k8s.errors import BadQuery
from nodepool_k8s.model import NodeState, RequestState, empty
from nodepool_k8s.presentation import Row
from nodepool_k8s.web.source import LauncherSource, MirroredRecords

Chosen = Mapping[str, frozenset[str]]
"""By filter: the values that a row may have; without a filter every row passes."""


ValueCheck = Callable[[str], str | None]
"""Checks a filter's value: what is expected instead, or None where it is valid."""


def _anything(value: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Listing:
    """One list. ``columns`` are shown by default, ``more`` can be named by ``fields``."""

    columns: Mapping[str, str]
    more: Mapping[str, str] = field(default_factory=empty)
    filters: Mapping[str, ValueCheck] = field(default_factory=empty)
    rows: Callable[[LauncherSource, MirroredRecords, Chosen], Iterable[Row]] = (
        lambda source, records, chosen: ()
    )


@dataclass(frozen=True, slots=True)
class ListQuery:
    """A checked query of a list."""

    columns: Mapping[str, str] | None
    """The fields that were named; None where none were."""
    chosen: Chosen

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two queries that have the same result."""
        columns = None if self.columns is None else tuple(self.columns)
        return columns, tuple(sorted((name, tuple(sorted(v))) for name, v in self.chosen.items()))


def parse_query(listing: Listing, parameters: Iterable[tuple[str, str]]) -> ListQuery:
    """Read the query's parameters.

    A parameter that is given twice lets either value pass; an empty one, and one that begins
    with ``_`` (against caches), is ignored. Raises BadQuery.
    """
    fields: list[str] = []
    chosen: dict[str, frozenset[str]] = {}
    for name, value in parameters:
        if name.startswith("_") or not value:
            continue
        if name == "fields":
            fields += _fields(listing, value)
            continue
        check = listing.filters.get(name)
        if check is None:
            names = ", ".join(["fields", *listing.filters])
            raise BadQuery(f"unknown parameter {_quoted(name)}; expected one of: {names}")
        expected = check(value)
        if expected is not None:
            raise BadQuery(f"{name} is {_quoted(value)}; expected {expected}")
        chosen[name] = chosen.get(name, frozenset()) | {value}
    every = {**listing.columns, **listing.more}
    columns = {key: heading for key, heading in every.items() if key in fields}
    return ListQuery(columns or None, chosen)


def _fields(listing: Listing, value: str) -> Sequence[str]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    known = {**listing.columns, **listing.more}
    for name in names:
        if name not in known:
            raise BadQuery(f"unknown field {_quoted(name)}; expected some of: {', '.join(known)}")
    return names


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:60] + "...")


def _passes(chosen: Chosen, name: str, *values: str | None) -> bool:
    return name not in chosen or not chosen[name].isdisjoint(values)


def _one_of(states: Iterable[str]) -> ValueCheck:
    names = list(states)
    return lambda value: None if value in names else "one of: " + ", ".join(names)


def _is_id(value: str) -> str | None:
    return None if value.isascii() and value.isdecimal() else "a node's id, such as 0000000042"


# --- the lists ---------------------------------------------------------------------------


def _nodes(source: LauncherSource, records: MirroredRecords, chosen: Chosen) -> Iterator[Row]:
    now = time.time()
    for node_id in sorted(records.nodes):
        # Looked up one by one: rows are made over some time, in which nodes appear and vanish.
        node = records.nodes.get(node_id)
        if (
            node is not None
            and _passes(chosen, "node_id", node_id)
            and _passes(chosen, "provider", node.provider)
            and _passes(chosen, "pool", node.pool)
            and _passes(chosen, "label", *node.type)
            and _passes(chosen, "state", node.state.value)
        ):
            yield presentation.node_row(node, records.node_locked(node_id), now)


def _requests(source: LauncherSource, records: MirroredRecords, chosen: Chosen) -> Iterator[Row]:
    now = time.time()
    for request_id in sorted(records.requests):
        request = records.requests.get(request_id)
        if (
            request is not None
            and _passes(chosen, "requestor", request.requestor)
            and _passes(chosen, "label", *request.node_types)
            and _passes(chosen, "state", request.state.value)
        ):
            yield presentation.request_row(request, now)


def _labels(source: LauncherSource, records: MirroredRecords, chosen: Chosen) -> Iterator[Row]:
    rows = presentation.label_rows(
        records.components.values(), records.nodes.values(), source.labels
    )
    for row in rows:
        if _passes(chosen, "label", row["label"]) and _passes(
            chosen, "provider", *row["providers"]
        ):
            yield row


NODES = Listing(
    columns={
        "id": "ID",
        "provider": "Provider",
        "label": "Label",
        "server_id": "Server ID",
        "public_ipv4": "Public IPv4",
        "ipv6": "IPv6",
        "state": "State",
        "age": "Age",
        "locked": "Locked",
        "pool": "Pool",
        "hostname": "Hostname",
        "private_ipv4": "Private IPv4",
        "AZ": "AZ",
        "username": "Username",
        "connection_port": "Port",
        "launcher": "Launcher",
        "allocated_to": "Allocated To",
        "hold_job": "Hold Job",
        "comment": "Comment",
        "user_data": "User Data",
        "driver_data": "Driver Data",
    },
    more={
        "reason": "Reason",
        "hold_expiration": "Hold Expiration",
        "tenant_name": "Tenant",
        "requestor": "Requestor",
        "resources": "Resources",
        "connection_type": "Connection Type",
        "interface_ip": "Interface IP",
        "host_id": "Host ID",
    },
    filters={
        "node_id": _is_id,
        "provider": _anything,
        "pool": _anything,
        "label": _anything,
        "state": _one_of(NodeState),
    },
    rows=_nodes,
)

REQUESTS = Listing(
    columns={
        "id": "Request ID",
        "relative_priority": "Priority",
        "state": "State",
        "requestor": "Requestor",
        "node_types": "Node Types",
        "nodes": "Nodes",
        "declined_by": "Declined By",
        "event_id": "Event ID",
    },
    more={
        "age": "Age",
        "state_age": "State Age",
        "provider": "Provider",
        "tenant_name": "Tenant",
        "reasons": "Reasons",
    },
    filters={
        "requestor": _anything,
        "label": _anything,
        "state": _one_of(RequestState),
    },
    rows=_requests,
)

LABELS = Listing(
    columns={"label": "Label"},
    more={
        "providers": "Providers",
        "pools": "Pools",
        "paused": "Paused",
        "min_ready": "Min-Ready",
        "nodes": "Nodes",
    },
    filters={
        "label": _anything,
        "provider": _anything,
    },
    rows=_labels,
)

# Nodepool's builders make images. Always empty here, but dashboards request these lists.
_IMAGES = Listing(
    {
        "id": "Build ID",
        "upload_id": "Upload ID",
        "provider": "Provider",
        "image": "Image",
        "external_name": "Provider Image Name",
        "external_id": "Provider Image ID",
        "state": "State",
        "age": "Age",
    }
)
_IMAGE_STATUS = Listing(
    {
        "image": "Image",
        "paused": "Paused",
        "build_request": "Build Request",
        "build_request_age": "Build Request Age",
    }
)
_DIB_IMAGES = Listing(
    {
        "id": "ID",
        "image": "Image",
        "builder": "Builder",
        "formats": "Formats",
        "state": "State",
        "age": "Age",
    }
)

LISTINGS: Mapping[str, Listing] = {
    "/node-list": NODES,
    "/request-list": REQUESTS,
    "/label-list": LABELS,
    "/image-list": _IMAGES,
    "/image-status": _IMAGE_STATUS,
    "/dib-image-list": _DIB_IMAGES,
    "/dib-request-list": _IMAGE_STATUS,
}
"""By path."""
