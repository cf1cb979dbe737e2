"""The clusters in which a provider has nodes, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodepool_k8s.errors import MalformedRecord
from nodepool_k8s.model import (
    ProviderCluster,
)
from nodepool_k8s.znodes.encoding import decode, encode, optional_string


def parse_provider_cluster(name: str, data: bytes) -> ProviderCluster:
    """Read which cluster a provider has nodes in. Raises MalformedRecord."""
    record = provider_cluster_in(decode(data, f"cluster {name}"))
    if record is None:
        raise MalformedRecord(f"cluster {name} lacks its provider or its identity")
    return record


def provider_cluster_in(raw: Mapping[str, Any]) -> ProviderCluster | None:
    provider, cluster = optional_string(raw.get("provider")), optional_string(raw.get("cluster"))
    return (
        ProviderCluster(provider, optional_string(raw.get("context")), cluster)
        if provider and cluster
        else None
    )


def encode_provider_cluster(record: ProviderCluster) -> bytes:
    """Write which cluster a provider has nodes in."""
    return encode(
        {"provider": record.provider, "context": record.context, "cluster": record.cluster}
    )
