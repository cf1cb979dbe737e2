"""What each launcher reads: a nodepool.yaml and a kube/config of its own, all of the same pools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from faults.plan import LABELS, LAUNCH_S, LIMITED_TENANT, POOL, PROVIDER, SESSION_S, Limits

CONTEXT = "chaos"


@dataclass(frozen=True)
class Place:
    """Where a run takes place: what it needs to know of the cluster."""

    kubeconfig: str
    context: str
    zookeeper: str
    chroot: str
    image: str
    folder: Path
    fair_share: bool
    """Whether tenants take turns in the pool."""

    @property
    def hosts(self) -> str:
        """ZooKeeper in kazoo's form."""
        return f"{self.zookeeper}{self.chroot}"


def write_config(path: Path, place: Place, zookeeper: str, limits: Limits, spare: int) -> None:
    """Make it the configuration at once, as an admin's editor does.

    ``zookeeper`` is where the launcher finds it, ``spare`` each label's ``min-ready``.
    """
    host, _, port = zookeeper.rpartition(":")
    document: dict[str, Any] = {
        "zookeeper-servers": [{"host": host, "port": int(port), "chroot": place.chroot}],
        "zookeeper-timeout": SESSION_S,
        "webapp": {"port": 0, "listen_address": "127.0.0.1"},
        "tenant-resource-limits": [{"tenant-name": LIMITED_TENANT, "max-servers": limits.tenant}],
        "labels": [{"name": name, "min-ready": spare} for name in LABELS],
        "providers": [_provider(place, limits)],
    }
    _replace(path, document)


def _provider(place: Place, limits: Limits) -> dict[str, Any]:
    labels = [
        {"name": "pod", "type": "pod", "image": place.image},
        {"name": "namespace", "type": "namespace"},
    ]
    pool = {
        "name": POOL,
        "max-servers": limits.pool,
        "fair-share": place.fair_share,
        "labels": labels,
    }
    return {
        "name": PROVIDER,
        "driver": "kubernetes",
        "context": CONTEXT,
        "launch-timeout": LAUNCH_S,
        "pools": [pool],
    }


def write_kubeconfig(path: Path, server: str) -> None:
    """A cluster at that URL, whose client needs no credentials."""
    _replace(
        path,
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": CONTEXT, "cluster": {"server": server}}],
            "users": [{"name": CONTEXT, "user": {}}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
            "current-context": CONTEXT,
        },
    )


def _replace(path: Path, document: dict[str, Any]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    fresh.replace(path)
