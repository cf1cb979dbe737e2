"""Registered pools as JSON, as Nodepool's launchers write and read them."""

from __future__ import annotations

from nodepool_k8s.errors import MalformedRecord
from nodepool_k8s.model import (
    Component,
)
from nodepool_k8s.znodes.encoding import (
    decode,
    encode,
    optional_number,
    optional_string,
    string_tuple,
)


def encode_component(component: Component, **more: object) -> bytes:
    """Write a component's record with the keys that Nodepool's readers require."""
    return encode(
        {
            "state": "running",
            "kind": "pool",
            "model_api": 0,
            **more,
            "id": component.id,
            "provider_name": component.provider_name,
            "supported_labels": sorted(component.supported_labels),
            "priority": component.priority,
            "paused": component.paused,
        }
    )


def parse_component(name: str, data: bytes) -> Component:
    """Read a pool's component record. Raises MalformedRecord."""
    raw = decode(data, f"component {name}")
    identity = raw.get("id")
    if not isinstance(identity, str):
        raise MalformedRecord(f"component {name} has no id")
    priority = optional_number(raw.get("priority"))
    return Component(
        id=identity,
        provider_name=optional_string(raw.get("provider_name")),
        supported_labels=frozenset(string_tuple(raw.get("supported_labels"), f"component {name}")),
        priority=100 if priority is None else int(priority),
        paused=bool(raw.get("paused")),
        pool=optional_string(raw.get("name")) or "",
    )
