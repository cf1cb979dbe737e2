"""What an admin configured, checked and resolved: the only form the launcher reads.

Everything inherited (provider to pool, pool default to label) is already filled in,
so that other modules do not have to know where a value came from. Durations are seconds.
The records of a label's topics are defined beside their options, in ``config.options``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodepool_k8s.config.options.copies import Copies as Copies
from nodepool_k8s.config.options.copies import CopySource as CopySource
from nodepool_k8s.config.options.launch import AccessTokenSettings as AccessTokenSettings
from nodepool_k8s.config.options.launch import LaunchSettings as LaunchSettings
from nodepool_k8s.config.options.network import Network as Network
from nodepool_k8s.config.options.network import ServicePort as ServicePort
from nodepool_k8s.config.options.placement import Placement as Placement
from nodepool_k8s.config.options.security import Security as Security
from nodepool_k8s.config.options.volume_forms import VolumeKind as VolumeKind
from nodepool_k8s.config.options.volumes import Volume as Volume
from nodepool_k8s.config.options.volumes import VolumeClaim as VolumeClaim
from nodepool_k8s.config.options.volumes import Volumes as Volumes
from nodepool_k8s.config.options.workload import Workload as Workload
from nodepool_k8s.model import LabelType, empty
from nodepool_k8s.zookeeper_settings import DEFAULT_CONFIG_FILE as DEFAULT_CONFIG_FILE
from nodepool_k8s.zookeeper_settings import ZooKeeperServer as ZooKeeperServer
from nodepool_k8s.zookeeper_settings import ZooKeeperSettings as ZooKeeperSettings
from nodepool_k8s.zookeeper_settings import ZooKeeperTLS as ZooKeeperTLS


@dataclass(frozen=True, slots=True)
class Label:
    """A label of a pool, with the pool's defaults filled in.

    cpu in cores, memory in MiB, storage in MB; None where nothing is asked for.
    """

    name: str
    type: LabelType
    image: str | None = None
    image_pull: str = "IfNotPresent"
    labels: Mapping[str, str] = field(default_factory=empty)
    dynamic_labels: Mapping[str, str] = field(default_factory=empty)
    annotations: Mapping[str, str] = field(default_factory=empty)
    python_path: str = "auto"
    shell_type: str | None = None
    cpu: float | None = None
    cpu_limit: float | None = None
    memory: int | None = None
    memory_limit: int | None = None
    storage: int | None = None
    storage_limit: int | None = None
    gpu: int | None = None
    gpu_resource: str | None = None
    extra_resources: Mapping[str, int] = field(default_factory=empty)
    placement: Placement = Placement()
    workload: Workload = Workload()
    volumes: Volumes = Volumes()
    security: Security = Security()
    network: Network = Network()
    spec: Mapping[str, Any] | None = field(default=None, repr=False)
    copies: Copies = Copies()
    replicas: int = 1
    launch: LaunchSettings = LaunchSettings()


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool of a provider, with the provider's defaults filled in.

    ``limits`` maps a resource's name to its limit in thousandths, and lacks what is
    unlimited; ``max-servers`` is the limit of ``instances``.
    """

    provider: str
    name: str
    labels: Mapping[str, Label]
    priority: int = 100
    limits: Mapping[str, int] = field(default_factory=empty)
    node_attributes: Mapping[str, Any] = field(default_factory=empty)
    disabled: bool = False
    """``max-servers`` of 0 or less: every request is declined."""
    fair_share: bool = False
    """Whether tenants take turns, within a priority, by the share of what they hold."""

    @property
    def key(self) -> str:
        """``provider/pool``: unique in a configuration."""
        return f"{self.provider}/{self.name}"


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider of the ``kubernetes`` driver."""

    name: str
    context: str | None
    pools: tuple[Pool, ...]
    launch_retries: int = 3
    max_concurrency: int | None = None
    """Launches at a time over all its pools; None for no limit (0 and -1 in the file)."""
    api_server_url: str | None = None
    access_role: str = "cluster"
    """``cluster``: RoleBindings to two ClusterRoles; ``namespace``: a Role in each namespace."""


@dataclass(frozen=True, slots=True)
class TopLabel:
    """An entry of the top-level ``labels`` list."""

    name: str
    min_ready: int = 0
    max_ready_age: float = 0.0


@dataclass(frozen=True, slots=True)
class WebAppSettings:
    """``webapp``: where the status page listens."""

    port: int = 8005
    listen_address: str = "0.0.0.0"


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration."""

    zookeeper: ZooKeeperSettings
    providers: tuple[Provider, ...]
    labels: Mapping[str, TopLabel]
    notices: tuple[str, ...] = ()
    """What was ignored in the file, one sentence each, for the log."""
    max_hold_age: float | None = None
    """Seconds that a node may be held; None for no limit."""
    tenant_limits: Mapping[str, Mapping[str, int]] = field(default_factory=empty)
    """By tenant: limits in thousandths by resource name, over all providers together."""
    webapp: WebAppSettings = WebAppSettings()

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Every pool of every provider, in the file's order."""
        return tuple(pool for provider in self.providers for pool in provider.pools)

    def provider(self, name: str) -> Provider | None:
        """The provider of that name, or None."""
        return next((provider for provider in self.providers if provider.name == name), None)

    def pool(self, provider: str | None, name: str | None) -> Pool | None:
        """The pool of that provider and name, or None."""
        return next(
            (pool for pool in self.pools if pool.provider == provider and pool.name == name), None
        )
