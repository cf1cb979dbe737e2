"""Records as rows of named values for people and scripts, with secrets redacted.

The keys of a row are those of Nodepool's own listings and a few more, so tools that read
Nodepool's listings can read these. The ``..._COLUMNS`` map the keys that a table shows to
their headings. The commands and the web server show the same rows. Pure: ``now`` is an
argument, in seconds since the epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from nodepool_k8s.config.settings import TopLabel
from nodepool_k8s.model import EMPTY, Component, Node, NodeRequest
from nodepool_k8s.redaction import REDACTED, redact
from nodepool_k8s.znodes.nodes import driver_data_of
from nodepool_k8s.znodes.requests import refusal_reasons

Row = dict[str, Any]
"""A row: JSON values by key."""

NODE_COLUMNS: Mapping[str, str] = {
    "id": "ID",
    "provider": "Provider",
    "pool": "Pool",
    "label": "Label",
    "server_id": "Namespace",
    "state": "State",
    "age": "Age",
    "locked": "Locked",
    "allocated_to": "Request",
    "reason": "Reason",
}

NODE_DETAIL_COLUMNS: Mapping[str, str] = {
    **NODE_COLUMNS,
    "interface_ip": "Pod",
    "host_id": "Host",
    "connection_type": "Connection",
    "hostname": "Hostname",
    "public_ipv4": "Public IPv4",
    "private_ipv4": "Private IPv4",
    "ipv6": "IPv6",
    "AZ": "AZ",
    "username": "Username",
    "connection_port": "Port",
    "launcher": "Launcher",
    "tenant_name": "Tenant",
    "requestor": "Requestor",
    "resources": "Resources",
    "hold_job": "Hold job",
    "hold_expiration": "Hold seconds",
    "comment": "Comment",
    "user_data": "User data",
    "driver_data": "Driver data",
}

REQUEST_COLUMNS: Mapping[str, str] = {
    "id": "ID",
    "relative_priority": "Priority",
    "state": "State",
    "age": "Age",
    "requestor": "Requestor",
    "node_types": "Labels",
    "nodes": "Nodes",
    "declined_by": "Declined by",
    "reasons": "Reasons",
}

REQUEST_DETAIL_COLUMNS: Mapping[str, str] = {
    **REQUEST_COLUMNS,
    "provider": "Provider",
    "tenant_name": "Tenant",
    "event_id": "Event",
    "state_age": "In this state",
}

LABEL_COLUMNS: Mapping[str, str] = {
    "label": "Label",
    "providers": "Providers",
    "paused": "Paused",
    "min_ready": "Min-ready",
    "nodes": "Nodes",
}

COMPONENT_COLUMNS: Mapping[str, str] = {
    "id": "ID",
    "hostname": "Host",
    "provider_name": "Provider",
    "priority": "Priority",
    "paused": "Paused",
    "supported_labels": "Labels",
    "version": "Version",
}

# --- rows --------------------------------------------------------------------------------


def node_row(node: Node, locked: bool, now: float) -> Row:
    """A node's row; the values of keys that its record lacks are None.

    ``label`` is a list, ``age`` the time in its state as ``DD:HH:MM:SS``, ``locked`` is
    ``locked`` or ``unlocked``. ``connection_port`` is a number, or ``redacted`` if the
    record has an object there, which contains a token.
    """
    extra = node.extra
    return {
        "id": node.id,
        "provider": node.provider,
        "label": list(node.type),
        "server_id": node.external_id,
        "public_ipv4": extra.get("public_ipv4"),
        "ipv6": extra.get("public_ipv6"),
        "state": node.state.value,
        "age": age(node.state_time, now),
        "locked": "locked" if locked else "unlocked",
        "pool": node.pool,
        "hostname": extra.get("hostname"),
        "private_ipv4": extra.get("private_ipv4"),
        "AZ": extra.get("az"),
        "username": extra.get("username"),
        "connection_port": _port(extra.get("connection_port")),
        "launcher": node.launcher,
        "allocated_to": node.allocated_to,
        "hold_job": extra.get("hold_job"),
        "comment": redact(extra.get("comment")),
        "user_data": redact(extra.get("user_data")),
        "driver_data": redact(dict(node.driver_data)) or None,
        "reason": redact(driver_data_of(node).get("reason")),
        "hold_expiration": extra.get("hold_expiration"),
        "tenant_name": node.tenant_name,
        "requestor": node.requestor,
        "resources": node.resources.numbers() if node.resources else None,
        "connection_type": extra.get("connection_type"),
        "interface_ip": extra.get("interface_ip"),
        "host_id": extra.get("host_id"),
    }


def request_row(request: NodeRequest, now: float) -> Row:
    """A request's row. ``age`` counts from its creation, ``state_age`` from its last state."""
    return {
        "id": request.id,
        "relative_priority": request.relative_priority,
        "state": request.state.value,
        "requestor": request.requestor,
        "node_types": list(request.node_types),
        "nodes": list(request.nodes),
        "declined_by": list(request.declined_by),
        "event_id": request.event_id,
        "age": age(request.created_time or request.state_time, now),
        "state_age": age(request.state_time, now),
        "provider": request.provider,
        "tenant_name": request.tenant_name,
        "reasons": [redact(reason) for reason in refusal_reasons(request)],
    }


def label_rows(
    components: Iterable[Component],
    nodes: Iterable[Node] = (),
    labels: Mapping[str, TopLabel] = EMPTY,
) -> list[Row]:
    """A row for each label that registered pools serve, sorted by name.

    ``pools`` has the ids of those pools, ``providers`` their providers; ``paused`` is True
    if all of them are paused. ``min_ready`` comes from ``labels`` (None if the label is not
    there), ``nodes`` counts the label's nodes by state.
    """
    serving: dict[str, list[Component]] = {}
    for component in components:
        for label in component.supported_labels:
            serving.setdefault(label, []).append(component)
    states: dict[str, Counter[str]] = {}
    for node in nodes:
        for label in node.type:
            states.setdefault(label, Counter())[node.state.value] += 1
    return [
        {
            "label": label,
            "providers": sorted({pool.provider_name for pool in pools if pool.provider_name}),
            "pools": sorted(pool.id for pool in pools),
            "paused": all(pool.paused for pool in pools),
            "min_ready": labels[label].min_ready if label in labels else None,
            "nodes": dict(sorted(states.get(label, Counter()).items())),
        }
        for label, pools in sorted(serving.items())
    ]


def component_row(component: Component, record: Mapping[str, Any] = EMPTY) -> Row:
    """A registered pool's row; ``record`` is its znode's JSON, for keys not in Component."""
    return {
        "id": component.id,
        "hostname": record.get("hostname"),
        "provider_name": component.provider_name,
        "priority": component.priority,
        "paused": component.paused,
        "supported_labels": sorted(component.supported_labels),
        "state": record.get("state"),
        "kind": record.get("kind"),
        "version": record.get("version"),
    }


def describe_use(node: Node) -> str:
    """A node's state and its users, as far as its record names them."""
    users = {
        "request": node.allocated_to,
        "requestor": node.requestor,
        "tenant": node.tenant_name,
        "launcher": node.launcher if node.state.value in ("building", "deleting") else None,
        "user data": node.extra.get("user_data"),
    }
    known = [f"{name} {_text(redact(value))}" for name, value in users.items() if value]
    return ", ".join([node.state.value, *known])


def _text(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def age(since: float | None, now: float) -> str:
    """How long ago, as ``DD:HH:MM:SS``, Nodepool's form; empty if unknown."""
    if not since:
        return ""
    minutes, seconds = divmod(max(0, int(now - since)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days:02}:{hours:02}:{minutes:02}:{seconds:02}"


def _port(value: object) -> object:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and value.isdecimal() and len(value) <= 5:
        return int(value)
    # A connection to a cluster, which contains the account's token.
    return REDACTED
