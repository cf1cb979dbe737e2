"""Volumes of a pod: ``volumes`` in both forms, claims, shared memory and ``tmpfs``.

A volume is Kubernetes' own definition, mounted by ``volume-mounts``; or the short form, which
has a ``volume-type`` and its own mount path.
"""

from __future__ import annotations

import itertools
import math
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.freeform import MapOf
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic
from nodepool_k8s.config.options import resources
from nodepool_k8s.config.options import volume_forms as forms
from nodepool_k8s.config.options.volume_forms import MEMORY, ONE_POD, VolumeKind, is_short
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.quantities import MIB, kubernetes_quantity, whole
from nodepool_k8s.config.review import Review
from nodepool_k8s.config.sections import ListOf


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


SHARED_MEMORY_PATH = "/dev/shm"
TMPFS_PATH = "/metaflow_temp"

TEMPDIR = "TMPDIR"

DEFAULT_MODES = ("ReadWriteOnce",)

OPTIONS = (
    Option(
        "volumes",
        ListOf("a list of volumes: Kubernetes' own definitions, or with volume-type", forms.VOLUME),
    ),
    Option("volume-mounts", ListOf("a list of Kubernetes volume mounts", forms.mount)),
    Option(
        "persistent-volume-claims",
        MapOf(
            "a mapping of claims to paths",
            values.subdomain("the name of a claim"),
            forms.CLAIM_MOUNT,
        ),
        pool_default=True,
        in_namespace=True,
    ),
    Option("shared-memory", values.mebibytes(1), pool_default=True),
    Option("tmpfs", forms.TMPFS_MOUNT, pool_default=True),
)


def check(review: Review, path: Path, label: RawLabel, pool: RawLabel) -> None:
    """Report volumes that Kubernetes could not mount, and claims that it could not create."""
    _claims(review, path, label)
    if label.get("type") == "namespace":
        return
    review.check_unique((*path, "volumes"), "name", "volume")
    _names(review, path)
    _paths(review, path, label)
    _memory_volumes(review, path, label)
    _tempdir(review, path, label)


def resolve(document: Document, path: Path, label: RawLabel, resolved: Mapping[str, Any]) -> Fields:
    """Build the record, with a name for each volume that was given none."""
    raw = tuple(volume for volume in label.get("volumes", ()) if not is_short(volume))
    named_volumes = [_given(volume) for volume in label.get("volumes", ()) if is_short(volume)]
    memory = resolved.get("memory") or 0
    unnamed = [volume for volume in _unnamed(label, memory) if volume.mount_path]
    taken = {volume["name"] for volume in raw} | {volume.name for volume in named_volumes}
    short = (*named_volumes, *_with_names(unnamed, taken))
    amounts = [*map(_memory, raw), *map(_short_memory, short)]
    volumes = Volumes(
        raw=raw,
        mounts=tuple(label.get("volume-mounts", ())),
        short=short,
        claims=tuple(
            dict.fromkeys(
                _made(name, options)
                for _, name, options in _claims_asked_for(path, label)
                if "size" in options
            )
        ),
        memory=sum(amount for amount in amounts if amount is not None),
        unbounded_memory=None in amounts,
        tempdir=_tmpfs_path(label) if _sets_tempdir(label) else None,
    )
    return {"volumes": volumes}


TOPIC = Topic(OPTIONS, resolve, check)


# --- claims ------------------------------------------------------------------------------------

Asked = tuple[Path, str, Mapping[str, Any]]
"""A claim: the path that asks for it, its name, and its options."""


def _claims_asked_for(path: Path, label: Mapping[str, Any]) -> Iterator[Asked]:
    listed = label.get("volumes")
    for number, volume in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(volume, dict) and volume.get("volume-type") == VolumeKind.CLAIM:
            yield (*path, "volumes", number), _claim_name(volume), volume.get("spec", {})
    claims = label.get("persistent-volume-claims")
    for name, given in claims.items() if isinstance(claims, dict) else ():
        options = given if isinstance(given, dict) else {"path": given}
        yield (*path, "persistent-volume-claims", name), name, options


def _in_list(place: Path) -> bool:
    """Whether it is an item of ``volumes``, not of ``persistent-volume-claims``."""
    return isinstance(place[-1], int)


def _claim_name(volume: Mapping[str, Any]) -> str:
    """The claim's own name; one that is made is named as its volume if it has none."""
    spec = volume.get("spec")
    own = spec.get("claim-name") if isinstance(spec, dict) else None
    return str(own or volume.get("name", ""))


def _made(name: str, options: Mapping[str, Any]) -> VolumeClaim:
    return VolumeClaim(
        options["size"],
        name,
        tuple(options.get("access-modes", DEFAULT_MODES)),
        options.get("storage-class"),
    )


def _claims(review: Review, path: Path, label: RawLabel) -> None:
    made: dict[str, tuple[Path, VolumeClaim]] = {}
    for place, name, options in _claims_asked_for(path, label):
        if not review.is_valid(place):
            continue
        inside = (*place, "spec") if _in_list(place) else place
        _access_modes(review, (*inside, "access-modes"), options, label)
        if not _in_list(place):
            _where(review, place, options, label["type"])
        if "size" not in options:
            _not_made(review, inside, name, options, label["type"])
            continue
        claim = _made(name, options)
        first, same = made.setdefault(name, (place, claim))
        if same != claim:
            review.reject(inside, f"the claim {name} as {review.location(first)} has it made")


def _access_modes(review: Review, place: Path, options: Mapping[str, Any], label: RawLabel) -> None:
    modes = options.get("access-modes", ())
    if ONE_POD not in modes:
        return
    if len(modes) > 1:
        review.report(place, f"{ONE_POD} cannot be given together with others")
    if (whole(label.get("replicas")) or 1) > 1:
        review.report(place, f"{ONE_POD} is for one pod, and the label has replicas")


def _where(review: Review, place: Path, options: Mapping[str, Any], kind: str) -> None:
    if kind == "pod" and "path" not in options:
        review.report(place, "needs a path: where the claim is mounted")
    elif kind == "namespace" and "size" not in options:
        expected = "a mapping with size: a namespace label's claim is made, and mounted nowhere"
        review.reject(place, expected)


def _not_made(
    review: Review, place: Path, name: str, options: Mapping[str, Any], kind: str
) -> None:
    idle = [key for key in ("access-modes", "storage-class") if key in options]
    for key in idle:
        review.report((*place, key), "needs size beside it: it is for a claim that is made")
    if place[-1] == "spec" and "claim-name" not in options:
        review.report(place[:-1], "needs a spec with claim-name, or with size to make a claim")
    elif not idle and kind == "pod":
        review.notice(
            place,
            f"the claim {name} is not made by the launcher, and each node's namespace is new: "
            "give a size, or have something else in the cluster make it there",
        )


# --- mounts ------------------------------------------------------------------------------------


def _names(review: Review, path: Path) -> None:
    volumes, mounts = (*path, "volumes"), (*path, "volume-mounts")
    if not review.is_valid(volumes):
        return
    names = {item.get("name") for _, item in review.mappings(volumes)}
    for item_path, item in review.mappings(mounts):
        if review.is_valid(item_path, "name") and item["name"] not in names:
            review.reject((*item_path, "name"), "the name of one of the label's volumes")


def _paths(review: Review, path: Path, label: RawLabel) -> None:
    first: dict[str, Path] = {}
    for place, mounted in _mounted(review, path, label):
        if not review.is_valid(place) or not isinstance(mounted, str):
            continue
        # Kubernetes mounts /a and /a/ at the same place.
        earlier = first.setdefault(posixpath.normpath(mounted), place)
        if earlier != place:
            hint = f"the first is {review.location(earlier)}"
            said = "a path at which nothing else is mounted"
            if place[-1] in ("shared-memory", "tmpfs"):
                review.report(
                    place, f"is mounted at {mounted}, where {review.location(earlier)} is"
                )
            else:
                review.reject(place, said, hint)


def _mounted(review: Review, path: Path, label: RawLabel) -> Iterator[tuple[Path, Any]]:
    """The mount path of each volume, and the path of the option that sets it."""
    for place, mount in review.mappings((*path, "volume-mounts")):
        yield (*place, "mountPath"), mount.get("mountPath")
    for place, volume in review.mappings((*path, "volumes")):
        if is_short(volume):
            yield (*place, "mount-path"), volume.get("mount-path")
    for place, _, options in _claims_asked_for(path, label):
        if not _in_list(place):
            inner = isinstance(review.document.get(place), dict)
            yield ((*place, "path") if inner else place), options.get("path")
    if "shared-memory" in label:
        yield (*path, "shared-memory"), SHARED_MEMORY_PATH
    if _has_tmpfs(label):
        options = _tmpfs_options(label)
        yield (
            ((*path, "tmpfs", "path") if "path" in options else (*path, "tmpfs")),
            (options.get("path", TMPFS_PATH)),
        )


# --- what is in memory ---------------------------------------------------------------------------


def _memory_volumes(review: Review, path: Path, label: RawLabel) -> None:
    """Report volumes in memory that are larger than the memory limit."""
    if not review.is_valid(path, *resources.TOPIC.keys):
        return
    memory, limit = resources.request_and_limit(review.document, path, label, "memory")
    for place, size in _sizes_in_memory(review, path, label):
        if limit is not None and review.is_valid(place) and size > limit:
            review.reject(place, f"the memory limit ({limit} MiB) or less, which it counts towards")
    unsized = _has_tmpfs(label) and "size" not in _tmpfs_options(label)
    if unsized and memory is None and review.is_valid(path, "tmpfs"):
        expected = "a mapping with size: half the memory is the default, and the label has none"
        review.reject((*path, "tmpfs"), expected)
    if limit is None:
        _note_unbounded(review, path)


def _note_unbounded(review: Review, path: Path) -> None:
    for place, volume in review.mappings((*path, "volumes")):
        if review.is_valid(place) and _memory(volume) is None:
            review.notice(
                place,
                "may take any memory of the Kubernetes node, and quota counts none of it: give "
                "it a size limit, or the label a memory limit",
            )


def _sizes_in_memory(review: Review, path: Path, label: RawLabel) -> Iterator[tuple[Path, int]]:
    """The size in MiB of each volume in memory that has one, and its path."""
    if (size := whole(label.get("shared-memory"))) is not None:
        yield (*path, "shared-memory"), size
    if _has_tmpfs(label) and (size := whole(_tmpfs_options(label).get("size"))) is not None:
        yield (*path, "tmpfs", "size"), size
    for place, volume in review.mappings((*path, "volumes")):
        if is_short(volume) and review.is_valid(place) and (size := _memory(volume)):
            yield (*place, "spec", "size-limit"), size


def _tempdir(review: Review, path: Path, label: RawLabel) -> None:
    if not _sets_tempdir(label):
        return
    for place, variable in review.mappings((*path, "env")):
        if variable.get("name") == TEMPDIR:
            hint = f"or leave out {review.location((*path, 'tmpfs', 'tempdir'))}"
            review.reject((*place, "name"), f"another variable: tmpfs sets {TEMPDIR}", hint)


def _has_tmpfs(label: Mapping[str, Any]) -> bool:
    return label.get("tmpfs") is True or isinstance(label.get("tmpfs"), dict)


def _tmpfs_options(label: Mapping[str, Any]) -> Mapping[str, Any]:
    given = label.get("tmpfs")
    return given if isinstance(given, dict) else {}


def _sets_tempdir(label: Mapping[str, Any]) -> bool:
    return _tmpfs_options(label).get("tempdir") is True


def _tmpfs_path(label: Mapping[str, Any]) -> str:
    return str(_tmpfs_options(label).get("path", TMPFS_PATH))


def _memory(volume: Mapping[str, Any]) -> int | None:
    """MiB that a volume of either form may hold in memory; None: it has no size of its own."""
    if is_short(volume):
        return _short_memory(_given(volume))
    empty = volume.get("emptyDir")
    if not isinstance(empty, dict) or empty.get("medium") != MEMORY:
        return 0
    return None if empty.get("sizeLimit") is None else _mebibytes(str(empty["sizeLimit"]))


def _short_memory(volume: Volume) -> int | None:
    if volume.medium != MEMORY:
        return 0
    return None if volume.size_limit is None else _mebibytes(volume.size_limit)


def _mebibytes(size: str) -> int:
    return math.ceil((kubernetes_quantity(size) or 0) / MIB)


# --- the short form -----------------------------------------------------------------------------


def _given(volume: Mapping[str, Any]) -> Volume:
    spec = volume.get("spec", {})
    kind = VolumeKind(volume["volume-type"])
    sources = {
        VolumeKind.CLAIM: _claim_name(volume),
        VolumeKind.CONFIG_MAP: spec.get("name", ""),
        VolumeKind.SECRET: spec.get("secret-name", ""),
    }
    return Volume(
        volume["name"],
        kind,
        volume["mount-path"],
        source=sources.get(kind, ""),
        size_limit=spec.get("size-limit"),
        medium=spec.get("medium", ""),
        template=_made("", spec) if kind is VolumeKind.EPHEMERAL else None,
    )


def _unnamed(label: Mapping[str, Any], memory: int) -> Iterator[Volume]:
    for _, name, options in _claims_asked_for((), {**label, "volumes": []}):
        path = options.get("path", "")
        yield Volume("claim", VolumeKind.CLAIM, path, source=name)
    if "shared-memory" in label:
        size = whole(label["shared-memory"])
        yield _in_memory("shared-memory", SHARED_MEMORY_PATH, size)
    if _has_tmpfs(label):
        size = whole(_tmpfs_options(label).get("size")) or max(memory // 2, 1)
        yield _in_memory("tmpfs", _tmpfs_path(label), size)


def _in_memory(name: str, path: str, size: int | None) -> Volume:
    return Volume(name, VolumeKind.EMPTY_DIR, path, size_limit=f"{size}Mi", medium=MEMORY)


def _with_names(volumes: list[Volume], taken: set[str]) -> Iterator[Volume]:
    """Each volume, under its name or the first unused one with a number."""
    used = set(taken)
    for volume in volumes:
        numbered = (f"{volume.name}-{number}" for number in itertools.count(2))
        candidates = itertools.chain([volume.name], numbered)
        name = next(candidate for candidate in candidates if candidate not in used)
        used.add(name)
        yield replace(volume, name=name)
