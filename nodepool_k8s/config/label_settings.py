"""What a pod label asks for by topic: the parts of ``settings.Label``, resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nodepool_k8s.model import empty


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a pod may run. ``tolerations`` and ``affinity`` are Kubernetes' own definitions."""

    node_selector: Mapping[str, str] = field(default_factory=empty)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    affinity: Mapping[str, Any] = field(default_factory=empty)
    without: tuple[str, ...] = ()
    """Labels that the Kubernetes node must not have."""
    runtime_class: str | None = None
    priority_class: str | None = None
    scheduler_name: str | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """What a pod runs; where neither command nor arguments are given, it sleeps."""

    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    pod_info_env: bool = True
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    working_dir: str | None = None


class VolumeKind(StrEnum):
    """The kinds of volume that have a short form, by the short form's names."""

    CLAIM = "persistent_volume_claim"
    EMPTY_DIR = "empty_dir"
    EPHEMERAL = "ephemeral"
    CONFIG_MAP = "config_map"
    SECRET = "secret"


@dataclass(frozen=True, slots=True)
class VolumeClaim:
    """A claim of storage that is made with the node. ``size`` is a Kubernetes quantity."""

    size: str
    name: str = ""
    """Empty for an ephemeral volume's: Kubernetes names it after pod and volume."""
    access_modes: tuple[str, ...] = ("ReadWriteOnce",)
    storage_class: str | None = None
    """None: the cluster's default; empty: none, a volume that is there already."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that was given by a short form, and where it is mounted."""

    name: str
    kind: VolumeKind
    mount_path: str
    source: str = ""
    """The name of the claim, config map or secret in the node's namespace."""
    size_limit: str | None = None
    """Of an ``emptyDir``, a Kubernetes quantity."""
    medium: str = ""
    template: VolumeClaim | None = None
    """Of an ephemeral volume."""


@dataclass(frozen=True, slots=True)
class Volumes:
    """``raw`` and ``mounts`` are Kubernetes' own definitions; ``short`` are the others."""

    raw: tuple[Mapping[str, Any], ...] = ()
    mounts: tuple[Mapping[str, Any], ...] = ()
    short: tuple[Volume, ...] = ()
    claims: tuple[VolumeClaim, ...] = ()
    """Made in the node's namespace."""
    memory: int = 0
    """MiB that volumes in memory may hold."""
    unbounded_memory: bool = False
    """Whether a volume in memory has no size of its own."""
    tempdir: str | None = None
    """What TMPDIR is set to."""


@dataclass(frozen=True, slots=True)
class Security:
    """``security-context`` with its single options, and ``pod-security``.

    None where nothing is asked for.
    """

    privileged: bool | None = None
    allow_privilege_escalation: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    fs_group: int | None = None
    pod_security: str | None = None


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of the node's Service, and the pod's port behind it."""

    port: int
    target_port: int


@dataclass(frozen=True, slots=True)
class Network:
    """Ports of the pod, the Service in front of it, and who may talk to it.

    ``service_type`` is None where there is no Service, ``policy`` where there is no
    NetworkPolicy; it is the policy's spec.
    """

    ports: tuple[int, ...] = ()
    service_type: str | None = None
    service_ports: tuple[ServicePort, ...] = ()
    external_name: str | None = None
    policy: Mapping[str, Any] | None = field(default=None)


SECRET = "Secret"
CONFIG_MAP = "ConfigMap"


@dataclass(frozen=True, slots=True, order=True)
class CopySource:
    """A Secret or ConfigMap that is copied, under its own name, into a node's namespace."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Copies:
    """What a node's namespace brings along.

    ``env`` are the sources that become environment variables, later ones over earlier;
    ``service_account`` is None where the pods run under the namespace's own.
    """

    env: tuple[CopySource, ...] = ()
    image_pull: tuple[CopySource, ...] = ()
    mounted: tuple[CopySource, ...] = ()
    service_account: str | None = None

    @property
    def sources(self) -> tuple[CopySource, ...]:
        """All that is copied, each once."""
        return tuple(dict.fromkeys((*self.env, *self.image_pull, *self.mounted)))
