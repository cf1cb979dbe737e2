"""Node requests as JSON, as Zuul and Nodepool write and read them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from nodepool_k8s.errors import MalformedRecord
from nodepool_k8s.model import (
    EMPTY,
    NodeRequest,
    RequestState,
)
from nodepool_k8s.znodes.encoding import (
    DRIVER_KEY,
    decode,
    encode,
    optional_number,
    optional_string,
    string_tuple,
)

_REQUEST_KEYS = frozenset(
    [
        "state",
        "state_time",
        "node_types",
        "nodes",
        "requestor",
        "requestor_data",
        "provider",
        "relative_priority",
        "event_id",
        "tenant_name",
        "created_time",
        "declined_by",
    ]
)


def parse_request(request_id: str, data: bytes, version: int) -> NodeRequest:
    """Read a request's znode.

    Raises MalformedRecord if it is not a JSON object, or has no known state or list of
    labels; everything else has a default, as in Nodepool.
    """
    what = f"request {request_id}"
    raw = decode(data, what)
    try:
        state = RequestState(str(raw.get("state")))
    except ValueError as error:
        raise MalformedRecord(f"{what} has state {raw.get('state')!r:.40}") from error
    if "node_types" not in raw:
        raise MalformedRecord(f"{what} lacks node_types, the list of labels it asks for")
    if "-" not in request_id:
        raise MalformedRecord(f"{what} is not named <priority>-<sequence>")
    return NodeRequest(
        id=request_id,
        state=state,
        node_types=string_tuple(raw["node_types"], f"{what}: node_types"),
        nodes=string_tuple(raw.get("nodes"), f"{what}: nodes"),
        requestor=optional_string(raw.get("requestor")) or "",
        requestor_data=raw.get("requestor_data"),
        provider=optional_string(raw.get("provider")),
        relative_priority=int(optional_number(raw.get("relative_priority")) or 0),
        event_id=optional_string(raw.get("event_id")),
        tenant_name=optional_string(raw.get("tenant_name")),
        created_time=optional_number(raw.get("created_time")),
        state_time=optional_number(raw.get("state_time")) or 0.0,
        declined_by=string_tuple(raw.get("declined_by"), f"{what}: declined_by"),
        extra={key: value for key, value in raw.items() if key not in _REQUEST_KEYS},
        version=version,
    )


def encode_request(request: NodeRequest) -> bytes:
    """Write a request as Zuul and Nodepool read it."""
    return encode(
        {
            **request.extra,
            "state": request.state.value,
            "state_time": request.state_time,
            "declined_by": list(request.declined_by),
            "node_types": list(request.node_types),
            "nodes": list(request.nodes),
            "requestor": request.requestor,
            "requestor_data": request.requestor_data,
            "provider": request.provider,
            "relative_priority": request.relative_priority,
            "event_id": request.event_id,
            "created_time": request.created_time,
            "tenant_name": request.tenant_name,
        }
    )


def refusal_reasons(request: NodeRequest) -> tuple[str, ...]:
    """The reasons for which our pools refused the request, from its record."""
    reasons = _own(request).get("reasons")
    return tuple(str(reason) for reason in reasons) if isinstance(reasons, list) else ()


def with_reasons(request: NodeRequest, reasons: tuple[str, ...]) -> Mapping[str, Any]:
    """The request's ``extra`` with more refusal reasons."""
    own = {**_own(request), "reasons": [*refusal_reasons(request), *reasons]}
    return {**request.extra, DRIVER_KEY: own}


def _own(request: NodeRequest) -> Mapping[str, Any]:
    own = request.extra.get(DRIVER_KEY)
    return own if isinstance(own, dict) else EMPTY


SPARE = MappingProxyType({"reuse": False, DRIVER_KEY: {"spare": True}})
"""The ``extra`` of a request for a spare node by one of our launchers."""


def is_own_spare(request: NodeRequest) -> bool:
    """Whether one of our launchers requested this spare node, by what the record still says."""
    return request.for_spare and _own(request).get("spare") is True


def wants_progress(request: NodeRequest) -> bool:
    """Whether the requestor asks for progress."""
    return request.extra.get("progress") is True


WITH_PROGRESS: Mapping[str, Any] = MappingProxyType({"progress": True})
"""The ``extra`` of a request that asks for progress."""


def wants_reuse(request: NodeRequest) -> bool:
    """Whether ready nodes may serve the request, or only new ones."""
    return request.extra.get("reuse") is not False
