"""Objects in a node's namespace: copies of Secrets and ConfigMaps, a service account.

Copied is what the lists name, which becomes environment or pulls images, and what a volume by
the short form mounts.

Where the originals are is for the admin to say: each entry names its namespace, or the
provider has a ``source-namespace``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.freeform import Validator
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic, fields
from nodepool_k8s.config.options.volume_forms import VolumeKind
from nodepool_k8s.config.problems import InvalidValue, Path
from nodepool_k8s.config.review import Review
from nodepool_k8s.config.sections import Choice, ListOf, Section

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
    """The copied objects and the service account of a node's namespace.

    ``env`` are the sources that become environment variables, later ones over earlier;
    ``service_account`` is None where the pods run under the namespace's own.
    """

    env: tuple[CopySource, ...] = ()
    image_pull: tuple[CopySource, ...] = ()
    mounted: tuple[CopySource, ...] = ()
    service_account: str | None = None

    @property
    def sources(self) -> tuple[CopySource, ...]:
        """Every copied object, once."""
        return tuple(dict.fromkeys((*self.env, *self.image_pull, *self.mounted)))


SOURCE_NAMESPACE = "source-namespace"
"""The provider's option: the namespace of objects that name none."""

_REFERENCE = "a name, or a mapping with name and namespace"


def _section(kind: str) -> Section:
    keys = {
        "name": values.subdomain(f"the name of a {kind}"),
        "namespace": values.dns_label("the name of a namespace"),
    }
    return Section(_REFERENCE, keys, required=("name",))


def _form(kind: str) -> Choice:
    section = _section(kind)

    def choose(value: Any) -> Validator:
        if isinstance(value, dict):
            return section
        if isinstance(value, str):
            return section.keys["name"]
        raise InvalidValue(_REFERENCE)

    return Choice(_REFERENCE, choose)


def _list(kind: str, what: str) -> ListOf:
    return ListOf(f"a list of {what}: of each {_REFERENCE}", _form(kind))


OPTIONS = (
    Option("secrets", _list(SECRET, "Secrets"), pool_default=True, in_namespace=True),
    Option("config-maps", _list(CONFIG_MAP, "ConfigMaps"), pool_default=True, in_namespace=True),
    Option(
        "image-pull-secrets",
        _list(SECRET, "Secrets for registries"),
        pool_default=True,
        in_namespace=True,
    ),
    Option(
        "service-account",
        values.subdomain("the name of a service account"),
        field="service_account",
        pool_default=True,
        in_namespace=True,
    ),
)

_LISTS: Mapping[str, str] = {
    "config-maps": CONFIG_MAP,
    "secrets": SECRET,
    "image-pull-secrets": SECRET,
}

_VOLUMES: Mapping[str, tuple[str, str]] = {
    VolumeKind.CONFIG_MAP: (CONFIG_MAP, "name"),
    VolumeKind.SECRET: (SECRET, "secret-name"),
}
"""What is mounted by the short form, by the volume's type: its kind, and the key of its name."""

_TAKEN = {
    (SECRET, "zuul-worker"): "the requestor's token may be in a Secret of this name",
    (CONFIG_MAP, "kube-root-ca.crt"): "each namespace has a ConfigMap of this name already",
}
_TAKEN_ACCOUNT = "zuul-worker"


@dataclass(frozen=True, slots=True)
class _Asked:
    """One object to copy, and the path that asks for it."""

    place: Path
    kind: str
    name: str
    namespace: str | None


def check(review: Review, path: Path, label: RawLabel, pool: RawLabel) -> None:
    """Report objects without a source namespace and objects whose names conflict."""
    first: dict[tuple[str, str], _Asked] = {}
    for asked in _all(review.document, path, label):
        if review.is_valid(asked.place):
            _check_source(review, asked)
            _check_pair(review, first.setdefault((asked.kind, asked.name), asked), asked)
    if review.is_valid(path, "service-account") and label.get("service-account") == _TAKEN_ACCOUNT:
        review.reject(
            (*path, "service-account"),
            f"another name than {_TAKEN_ACCOUNT}, the account whose token the requestor gets",
        )


def _check_source(review: Review, asked: _Asked) -> None:
    if (asked.kind, asked.name) in _TAKEN:
        review.report(asked.place, f"cannot be copied: {_TAKEN[asked.kind, asked.name]}")
    if asked.namespace is None:
        listed = asked.place[-1] != "spec"
        how = "write it as a mapping with name and namespace" if listed else "give it a namespace"
        review.report(
            asked.place,
            f"does not say where the {asked.kind} is copied from: {how}, or give the provider a "
            f"{SOURCE_NAMESPACE}",
        )


def _check_pair(review: Review, first: _Asked, asked: _Asked) -> None:
    if first is asked:
        return
    if first.place[:-1] == asked.place[:-1]:
        hint = f"the first is {review.location(first.place)}"
        review.reject(asked.place, f"each {asked.kind} once", hint)
    elif first.namespace != asked.namespace:
        review.report(
            asked.place,
            f"is from another namespace than {review.location(first.place)}, and both would be "
            f"copied to one {asked.kind} {asked.name}",
        )


def resolve(document: Document, path: Path, label: RawLabel, resolved: Mapping[str, Any]) -> Fields:
    """Build the record."""
    sources: dict[str, list[CopySource]] = {}
    for asked in _all(document, path, label):
        source = CopySource(asked.kind, asked.namespace or "", asked.name)
        sources.setdefault(str(asked.place[len(path)]), []).append(source)
    copies = Copies(
        env=(*sources.get("config-maps", ()), *sources.get("secrets", ())),
        image_pull=tuple(sources.get("image-pull-secrets", ())),
        mounted=tuple(sources.get("volumes", ())),
        **fields(OPTIONS, document, path, label),
    )
    return {"copies": copies}


TOPIC = Topic(OPTIONS, resolve, check)


def _all(document: Document, path: Path, label: Mapping[str, Any]) -> list[_Asked]:
    provider = document.get(path[:2])
    common = provider.get(SOURCE_NAMESPACE) if isinstance(provider, dict) else None
    found = [asked for key in _LISTS for asked in _listed(path, label, key, common)]
    # A volume may refer to an object that a list names with its namespace.
    named = {(asked.kind, asked.name): asked.namespace for asked in found}
    for asked in _mounted(path, label):
        namespace = asked.namespace or named.get((asked.kind, asked.name), common)
        found.append(replace(asked, namespace=namespace))
    return found


def _listed(path: Path, label: Mapping[str, Any], key: str, common: str | None) -> Iterator[_Asked]:
    entries = label.get(key)
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        place = (*path, key, number)
        if isinstance(entry, str):
            yield _Asked(place, _LISTS[key], entry, common)
        elif isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield _Asked(place, _LISTS[key], entry["name"], entry.get("namespace", common))


def _mounted(path: Path, label: Mapping[str, Any]) -> Iterator[_Asked]:
    volumes = label.get("volumes")
    for number, volume in enumerate(volumes if isinstance(volumes, list) else ()):
        kind, key = _volume_kind(volume)
        spec = volume.get("spec") if kind else None
        if isinstance(spec, dict) and isinstance(spec.get(key), str):
            place = (*path, "volumes", number, "spec")
            yield _Asked(place, kind, spec[key], spec.get("namespace"))


def _volume_kind(volume: Any) -> tuple[str, str]:
    kind = volume.get("volume-type") if isinstance(volume, dict) else None
    return _VOLUMES.get(kind, ("", "")) if isinstance(kind, str) else ("", "")
