"""Nodes as JSON, with every key that Nodepool's own records have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import NoneType
from typing import Any, cast

from nodepool_k8s.errors import MalformedRecord
from nodepool_k8s.model import (
    EMPTY,
    DriverData,
    LabelType,
    Node,
    NodeState,
    ProviderCluster,
    Resources,
)
from nodepool_k8s.znodes.encoding import (
    DRIVER_KEY,
    decode,
    encode,
    optional_number,
    optional_string,
    string_tuple,
    thousandths,
)
from nodepool_k8s.znodes.provider_clusters import provider_cluster_in

_NODE_DEFAULTS: Mapping[str, Any] = {
    "cloud": None,
    "az": None,
    "region": None,
    "public_ipv4": None,
    "private_ipv4": None,
    "public_ipv6": None,
    "host_id": None,
    "interface_ip": None,
    "connection_port": 22,
    "ssh_port": 22,
    "image_id": None,
    "hostname": None,
    "comment": None,
    "user_data": None,
    "hold_job": None,
    "host_keys": [],
    "username": None,
    "connection_type": None,
    "shell_type": None,
    "hold_expiration": None,
    "slot": None,
    "attributes": None,
    "python_path": None,
    "node_properties": {},
}


_NODE_KEYS = frozenset(
    [
        "state",
        "state_time",
        "type",
        "provider",
        "pool",
        "launcher",
        "allocated_to",
        "tenant_name",
        "requestor",
        "external_id",
        "created_time",
        "resources",
        "driver_data",
    ]
)


def parse_node(node_id: str, data: bytes, version: int) -> Node:
    """Read a node's znode.

    Raises MalformedRecord if it is not a JSON object or has no known state.
    """
    what = f"node {node_id}"
    raw = decode(data, what)
    try:
        state = NodeState(str(raw.get("state")))
    except ValueError as error:
        raise MalformedRecord(f"{what} has state {raw.get('state')!r:.40}") from error
    driver_data = raw.get("driver_data")
    driver_data = driver_data if isinstance(driver_data, dict) else EMPTY
    return Node(
        id=node_id,
        state=state,
        type=string_tuple(raw.get("type"), f"{what}: type"),
        provider=optional_string(raw.get("provider")),
        pool=optional_string(raw.get("pool")),
        launcher=optional_string(raw.get("launcher")),
        allocated_to=optional_string(raw.get("allocated_to")),
        tenant_name=optional_string(raw.get("tenant_name")),
        requestor=optional_string(raw.get("requestor")),
        external_id=optional_string(raw.get("external_id")),
        created_time=optional_number(raw.get("created_time")),
        state_time=optional_number(raw.get("state_time")) or 0.0,
        resources=_resources(raw.get("resources")),
        claimed=_claimed(driver_data),
        counted_for=_counted_for(driver_data),
        driver_data=driver_data,
        extra={key: value for key, value in raw.items() if key not in _NODE_KEYS},
        version=version,
    )


def _resources(value: object) -> Resources | None:
    if not isinstance(value, dict):
        return None
    numbers = {str(name): optional_number(amount) for name, amount in value.items()}
    return Resources.from_numbers(
        {name: amount for name, amount in numbers.items() if amount is not None and amount > 0}
    )


def _claimed(driver_data: Mapping[str, Any]) -> Resources | None:
    own = driver_data.get(DRIVER_KEY)
    claimed = own.get("claimed") if isinstance(own, dict) else None
    return Resources(thousandths(claimed, "claimed")) if isinstance(claimed, dict) else None


def _counted_for(driver_data: Mapping[str, Any]) -> str | None:
    own = driver_data.get(DRIVER_KEY)
    return optional_string(own.get("tenant")) if isinstance(own, dict) else None


def encode_node(node: Node) -> bytes:
    """Write a node with every key that Nodepool's own records have."""
    driver_data = dict(node.driver_data)
    if node.claimed is not None:
        own = driver_data.get(DRIVER_KEY)
        own = own if isinstance(own, dict) else {}
        counts = {"claimed": dict(node.claimed), "tenant": node.counted_for}
        driver_data[DRIVER_KEY] = {**own, **counts}
    return encode(
        {
            **_NODE_DEFAULTS,
            **node.extra,
            "state": node.state.value,
            "state_time": node.state_time,
            "type": list(node.type),
            "provider": node.provider,
            "pool": node.pool,
            "launcher": node.launcher,
            "allocated_to": node.allocated_to,
            "tenant_name": node.tenant_name,
            "requestor": node.requestor,
            "external_id": node.external_id,
            "created_time": node.created_time,
            "resources": _resource_numbers(node.resources),
            "driver_data": driver_data or None,
        }
    )


def _resource_numbers(resources: Resources | None) -> dict[str, int | float] | None:
    # Nodepool writes these three for every node, a namespace's zeros included.
    if resources is None:
        return None
    return {"cores": 0, "ram": 0, "instances": 0, **resources.numbers()}


def has_driver_data(node: Node) -> bool:
    """Whether a launcher of ours created the node, or will."""
    return bool(_own_part(node))


def _own_part(node: Node) -> Mapping[str, Any]:
    own = node.driver_data.get(DRIVER_KEY)
    return own if isinstance(own, dict) else EMPTY


_DRIVER_DATA_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "type": str,
    "replicas": int,
    "outlives_pods": bool,
    "uid": str,
    "token_expires": (int, float, NoneType),
    "token_issued": (int, float),
    "context": (str, NoneType),
    "cluster": str,
    "reason": str,
    "steps": dict,
}


def driver_data_of(node: Node) -> DriverData:
    """Our own part of the node's ``driver_data``; values of other types are left out."""
    found = {
        key: value
        for key, value in _own_part(node).items()
        if key in _DRIVER_DATA_TYPES and isinstance(value, _DRIVER_DATA_TYPES[key])
    }
    return cast(DriverData, found)


KEPT_KEYS = (
    "hold_expiration",
    "hold_job",
    "comment",
    "user_data",
    "hostname",
    "host_id",
    "interface_ip",
    "public_ipv4",
    "private_ipv4",
    "public_ipv6",
    "connection_type",
)


def without_secrets(node: Node) -> Node:
    """The node as kept in memory: without tokens, certificates and null values."""
    kept = {key: value for key in KEPT_KEYS if (value := node.extra.get(key)) is not None}
    return replace(node, extra=kept or EMPTY)


def hold_expiration(node: Node) -> float | None:
    """Seconds for which the node is to be held; None: forever."""
    value = node.extra.get("hold_expiration")
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)  # Zuul once wrote it as text.
    seconds = optional_number(value)
    return seconds if seconds is not None and seconds > 0 else None


def token_times(node: Node) -> tuple[float | None, float]:
    """When the node's token expires (None: never) and was issued, in epoch seconds."""
    own = driver_data_of(node)
    return optional_number(own.get("token_expires")), optional_number(
        own.get("token_issued")
    ) or node.state_time


def replicas_of(node: Node) -> int:
    """The number of pods of a node with pods."""
    count = driver_data_of(node).get("replicas", 1)
    return count if count > 0 else 1


def ends_with_pods(node: Node) -> bool:
    """Whether all resources of a node are free once its pods are gone.

    Those of a namespace, and of objects that outlive the pods (volume claims, load
    balancers), are free only once the namespace is gone.
    """
    own = driver_data_of(node)
    return own.get("type") == LabelType.POD.value and not own.get("outlives_pods")


def with_driver_data(node: Node, data: DriverData) -> Mapping[str, Any]:
    """The node's ``driver_data`` with ``data`` added to our own part."""
    return {**node.driver_data, DRIVER_KEY: {**_own_part(node), **data}}


def provider_cluster_of(node: Node) -> ProviderCluster | None:
    """The cluster that the node was created in; None if its record does not name it."""
    return provider_cluster_in({**driver_data_of(node), "provider": node.provider})
