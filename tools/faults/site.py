"""The nodepool.yaml of each launcher; all of them serve the same pool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import nodepool_yaml, yamlfile

from faults.plan import LABELS, LAUNCH_S, LIMITED_TENANT, POOL, PROVIDER, SESSION_S, Limits

CONTEXT = "chaos"


@dataclass(frozen=True)
class Place:
    """Where a run takes place: what it needs to know of the cluster."""

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
    document = nodepool_yaml.document(
        [nodepool_yaml.server(zookeeper, place.chroot)],
        [_provider(place, limits)],
        context=CONTEXT,
        labels=[{"name": name, "min-ready": spare} for name in LABELS],
    )
    tenant = {"tenant-name": LIMITED_TENANT, "max-servers": limits.tenant}
    top = {"zookeeper-timeout": SESSION_S, "tenant-resource-limits": [tenant]}
    yamlfile.replace(path, {**document, **top})


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
        "launch-timeout": LAUNCH_S,
        "pools": [pool],
    }
