"""Validators of the forms of volumes, claims and ``tmpfs``."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.freeform import Validator, named_object, require_key
from nodepool_k8s.config.quantities import kubernetes_quantity
from nodepool_k8s.config.sections import Choice, ListOf, Section


class VolumeKind(StrEnum):
    """The kinds of volume that have a short form, by the short form's names."""

    CLAIM = "persistent_volume_claim"
    EMPTY_DIR = "empty_dir"
    EPHEMERAL = "ephemeral"
    CONFIG_MAP = "config_map"
    SECRET = "secret"


MEMORY = "Memory"
"""The medium of a volume in memory."""
ONE_POD = "ReadWriteOncePod"

_UNIT = re.compile(r"[0-9.]+([kMGTPE]|[KMGTPE]i)")


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, str)
        and bool(_UNIT.fullmatch(value))
        and (kubernetes_quantity(value) or 0) >= 1
    )


def _advise_unit(value: Any) -> str:
    bare = isinstance(value, (int, str)) and re.fullmatch(r"[0-9]{1,15}", str(value))
    return f"say the unit: {value}Gi or {value}Mi, for instance" if bare else ""


_SIZE = values.Value("a size with its unit, like 10Gi or 500Mi", _is_size, _advise_unit)

_MOUNT_PATH = values.Value(
    "an absolute path without ':', other than /",
    lambda value: (
        isinstance(value, str)
        and value.startswith("/")
        and ":" not in value
        and posixpath.normpath(value).strip("/") != ""
    ),
)

_STORAGE_CLASS = values.subdomain("the name of a storage class")
_NAMESPACE = values.dns_label("the name of a namespace")

_CLAIM_KEYS: Mapping[str, Validator] = {
    "size": _SIZE,
    "access-modes": ListOf(
        "a list of access modes",
        values.one_of("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", ONE_POD),
        empty=False,
    ),
    "storage-class": values.Value(
        "the name of a storage class; '' for none, a volume that is there already",
        lambda value: value == "" or _STORAGE_CLASS.accepts(value),
    ),
}

_SPECS: Mapping[VolumeKind, Section] = {
    VolumeKind.CLAIM: Section(
        "a mapping with claim-name, or with size to make a claim",
        {"claim-name": values.subdomain("the name of a claim"), **_CLAIM_KEYS},
        snake_case=True,
    ),
    VolumeKind.EMPTY_DIR: Section(
        "a mapping with size-limit and medium",
        {
            "size-limit": _SIZE,
            "medium": values.Value(
                f"'{MEMORY}', or '' for the disk of the Kubernetes node",
                lambda value: value in ("", MEMORY),
                lambda value: f"write {MEMORY}" if str(value).lower() == MEMORY.lower() else "",
            ),
        },
        snake_case=True,
    ),
    VolumeKind.EPHEMERAL: Section(
        "a mapping with size", _CLAIM_KEYS, required=("size",), snake_case=True
    ),
    VolumeKind.CONFIG_MAP: Section(
        "a mapping with the name of a ConfigMap",
        {"name": values.subdomain("the name of a ConfigMap"), "namespace": _NAMESPACE},
        required=("name",),
        snake_case=True,
    ),
    VolumeKind.SECRET: Section(
        "a mapping with secret-name",
        {"secret-name": values.subdomain("the name of a Secret"), "namespace": _NAMESPACE},
        required=("secret-name",),
        snake_case=True,
    ),
}

_NEEDS_SPEC = frozenset({VolumeKind.EPHEMERAL, VolumeKind.CONFIG_MAP, VolumeKind.SECRET})


_SHORT = Section(
    "a volume with volume-type, name, mount-path and spec",
    {
        "volume-type": values.one_of(*VolumeKind),
        "name": values.dns_label("a volume's name"),
        "mount-path": _MOUNT_PATH,
        "spec": values.Value("a mapping", lambda value: isinstance(value, dict)),
    },
    required=("volume-type", "name", "mount-path"),
    snake_case=True,
)


def _short(kind: VolumeKind) -> Section:
    required = ["volume-type", "name", "mount-path"]
    return Section(
        f"a volume of the type {kind}, with name, mount-path and spec",
        {**_SHORT.keys, "spec": _SPECS[kind]},
        required=[*required, "spec"] if kind in _NEEDS_SPEC else required,
        snake_case=True,
    )


_SHORT_FORMS = {kind: _short(kind) for kind in VolumeKind}


def _raw_volume(value: Any) -> Any:
    return named_object("a Kubernetes volume", values.dns_label("a volume's name"), value)


def mount(value: Any) -> Any:
    """Check an entry of ``volume-mounts``."""
    named_object("a Kubernetes volume mount", values.dns_label("a volume's name"), value)
    return require_key("mountPath", values.absolute_path(), value)


def _volume(value: Any) -> Validator:
    if not isinstance(value, dict) or not is_short(value):
        return _raw_volume
    kind = next((value[key] for key in _TYPE_KEYS if key in value), None)
    return _SHORT_FORMS[VolumeKind(kind)] if kind in list(VolumeKind) else _SHORT


_TYPE_KEYS = ("volume-type", "volume_type", "volumeType")


def is_short(volume: Mapping[str, Any]) -> bool:
    """Whether a volume has the short form, not Kubernetes' own definition."""
    return any(key in volume for key in _TYPE_KEYS)


CLAIM = Section(
    "a path, or a mapping with path and, to make the claim, size",
    {"path": _MOUNT_PATH, **_CLAIM_KEYS},
    snake_case=True,
)


_CLAIM_PATH = values.Value(
    f"{_MOUNT_PATH.expected}; or a mapping with path and size", _MOUNT_PATH.accepts
)


def _claim(value: Any) -> Validator:
    return CLAIM if isinstance(value, dict) else _CLAIM_PATH


TMPFS = Section(
    "true, or a mapping with size, path and tempdir",
    {"size": values.mebibytes(1), "path": _MOUNT_PATH, "tempdir": values.boolean()},
    snake_case=True,
)


def _tmpfs(value: Any) -> Validator:
    if isinstance(value, dict):
        return TMPFS
    return values.Value(TMPFS.expected, lambda value: isinstance(value, bool))


VOLUME = Choice("a Kubernetes volume, or one with volume-type", _volume)
CLAIM_MOUNT = Choice(CLAIM.expected, _claim)
TMPFS_MOUNT = Choice(TMPFS.expected, _tmpfs)
