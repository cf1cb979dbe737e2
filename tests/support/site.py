"""A site: a nodepool.yaml on the local cluster, in a ZooKeeper chroot of its own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import LocalCluster
from harness import nodepool_yaml, yamlfile

from nodepool_k8s.config.settings import Settings
from nodepool_k8s.launcher.reload import ConfigFiles
from tests.support.admin import MANUAL

Options = dict[str, Any]


@dataclass(frozen=True)
class Site:
    """One configuration file, and how to reach its cluster and ZooKeeper."""

    cluster: LocalCluster
    chroot: str
    path: Path
    secure_path: Path | None = None

    @property
    def hosts(self) -> str:
        """ZooKeeper in kazoo's form."""
        return f"{self.cluster.zookeeper}{self.chroot}"

    def settings(self) -> Settings:
        return self.files().load()

    def files(self) -> ConfigFiles:
        """What the launcher is started with."""
        return ConfigFiles(str(self.path), str(self.secure_path) if self.secure_path else None)

    def become(self, other: Site) -> None:
        """Replace the file by another site's in one step, as editors do."""
        other.path.replace(self.path)


class SiteMaker:
    """Writes the sites of one test, all in one chroot."""

    def __init__(self, cluster: LocalCluster, chroot: str, folder: Path) -> None:
        self.cluster = cluster
        self.chroot = chroot
        self._folder = folder
        self._numbers = itertools.count(1)

    @property
    def hosts(self) -> str:
        return f"{self.cluster.zookeeper}{self.chroot}"

    @property
    def pool(self) -> str:
        """A pool's name, the prefix of its namespaces, that no other test uses."""
        return f"main-{self.chroot[-8:]}"

    def namespace(self, node_id: str, attempt: int = 0) -> str:
        """The namespace of a node."""
        return f"{self.pool}-{node_id}" + (f"-{attempt}" if attempt else "")

    def __call__(
        self,
        *labels: Options,
        pool: Options | None = None,
        provider: Options | None = None,
        top: Options | None = None,
    ) -> Site:
        """One provider ``local`` with one pool, of the test's own name."""
        pools = [{"name": self.pool, "labels": list(labels), **(pool or {})}]
        return self.of([{"name": "local", "pools": pools, **(provider or {})}], top)

    def of(self, providers: list[Options], top: Options | None = None) -> Site:
        """Any providers, on the local cluster unless they say otherwise."""
        servers = [nodepool_yaml.server(self.cluster.zookeeper, self.chroot)]
        document = nodepool_yaml.document(servers, providers, context=self.cluster.context)
        path = self._folder / f"nodepool-{next(self._numbers)}.yaml"
        yamlfile.replace(path, {**document, **(top or {})})
        return Site(self.cluster, self.chroot, path)


IMAGE = "docker.io/library/busybox:1.35"
"""Available without a registry on every local cluster."""


def pod_label(name: str = "pod", **options: Any) -> Options:
    """A pod label; the options as in the file, with ``_`` for ``-``."""
    return {"name": name, "type": "pod", "image": IMAGE, **_dashed(options)}


def manual_label(name: str = "pod", **options: Any) -> Options:
    """A pod label whose pods become ready only when the test says so."""
    return pod_label(name, annotations=MANUAL, **options)


def spec_label(spec: Options, name: str = "pod", **options: Any) -> Options:
    """A label with a raw spec."""
    return {"name": name, "type": "pod", "spec": spec, **_dashed(options)}


def namespace_label(name: str = "namespace", **options: Any) -> Options:
    return {"name": name, "type": "namespace", **_dashed(options)}


def _dashed(options: Options) -> Options:
    return {key.replace("_", "-"): value for key, value in options.items()}
