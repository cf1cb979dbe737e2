"""From a checked document to Settings: defaults, and nothing that can fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodepool_k8s.config import options
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.quantities import seconds, thousandths, whole
from nodepool_k8s.config.review import Review
from nodepool_k8s.config.settings import (
    Label,
    Pool,
    Provider,
    Settings,
    TopLabel,
    WebAppSettings,
    ZooKeeperServer,
    ZooKeeperSettings,
    ZooKeeperTLS,
)
from nodepool_k8s.model import CORES, INSTANCES, RAM

Section = Mapping[str, Any]

DEFAULT_ZOOKEEPER_PORT = 2281

_TENANT_NAMES = {
    "max-servers": INSTANCES,
    "max-cores": CORES,
    "max-ram": RAM,
    "max-volumes": "volumes",
    "max-volume-gb": "volume-gb",
}


def resolve(review: Review, servers: Document, tls: Document, notices: list[str]) -> Settings:
    """Build the settings; ``servers`` and ``tls`` are the files of ZooKeeper's sections."""
    document = review.document
    return Settings(
        zookeeper=_zookeeper(document, servers, tls),
        providers=tuple(
            _provider(document, path, provider) for path, provider in review.providers()
        ),
        labels={label.name: label for label in map(_top_label, _list(document.data, "labels"))},
        notices=tuple(notices),
        max_hold_age=_positive(document.data.get("max-hold-age")),
        tenant_limits={
            entry["tenant-name"]: _tenant(entry)
            for entry in _list(document.data, "tenant-resource-limits")
        },
        webapp=_webapp(document.data.get("webapp") or {}),
    )


def _zookeeper(document: Document, servers: Document, tls: Document) -> ZooKeeperSettings:
    entries = servers.data["zookeeper-servers"]
    files = tls.data.get("zookeeper-tls")
    chroot = next(filter(None, (entry.get("chroot", "").strip("/") for entry in entries)), "")
    return ZooKeeperSettings(
        # One server of an ensemble that lacked the chroot would be another tree.
        servers=tuple(
            ZooKeeperServer(
                host=entry["host"].strip("[]"),
                port=whole(entry.get("port")) or DEFAULT_ZOOKEEPER_PORT,
                chroot=f"/{chroot}" if chroot else "",
            )
            for entry in entries
        ),
        tls=ZooKeeperTLS(**files) if files else None,
        timeout=seconds(document.data.get("zookeeper-timeout")) or 10.0,
    )


def _webapp(section: Section) -> WebAppSettings:
    default = WebAppSettings()
    return WebAppSettings(
        port=int(section.get("port", default.port)),
        listen_address=section.get("listen_address", default.listen_address).strip("[]"),
    )


def _tenant(entry: Section) -> Mapping[str, int]:
    return {
        _TENANT_NAMES.get(key, key): thousandths(value)
        for key, value in entry.items()
        if key != "tenant-name"
    }


def _top_label(entry: Section) -> TopLabel:
    return TopLabel(
        name=entry["name"],
        min_ready=int(entry.get("min-ready", 0)),
        max_ready_age=seconds(entry.get("max-ready-age")) or 0.0,
    )


def _provider(document: Document, path: Path, provider: Section) -> Provider:
    concurrency = int(provider.get("max-concurrency", -1))
    return Provider(
        name=provider["name"],
        context=provider.get("context"),
        pools=tuple(
            _pool(document, (*path, "pools", place), provider, pool)
            for place, pool in enumerate(_list(provider, "pools"))
        ),
        launch_retries=int(provider.get("launch-retries", 3)),
        max_concurrency=concurrency if concurrency > 0 else None,
        api_server_url=provider.get("api-server-url"),
        access_role=provider.get("access-role", "cluster"),
    )


def _pool(document: Document, path: Path, provider: Section, pool: Section) -> Pool:
    both = {**provider, **pool}
    labels = [
        Label(**options.resolve(document, (*path, "labels", place)))
        for place in range(len(_list(pool, "labels")))
    ]
    return Pool(
        provider=provider["name"],
        name=pool["name"],
        labels={label.name: label for label in labels},
        priority=int(both.get("priority", 100)),
        limits=_limits(provider, pool),
        node_attributes=pool.get("node-attributes", {}),
        disabled=both.get("max-servers", 1) <= 0,
        fair_share=both.get("fair-share", bool(document.data.get("fair-share"))),
    )


def _limits(provider: Section, pool: Section) -> Mapping[str, int]:
    both = {**provider, **pool}
    named = ((INSTANCES, "max-servers"), (CORES, "max-cores"), (RAM, "max-ram"))
    limits = {name: max(0, both[key]) for name, key in named if key in both}
    limits |= provider.get("max-resources", {}) | pool.get("max-resources", {})
    return {name: thousandths(limit) for name, limit in limits.items()}


def _positive(value: Any) -> float | None:
    limit = seconds(value)
    return limit if limit is not None and limit > 0 else None


def _list(section: Section, key: str) -> list[Any]:
    return section.get(key) or []
