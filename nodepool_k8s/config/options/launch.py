"""How a node is launched and removed: options of providers, pools and labels alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic, fields, validators
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.quantities import seconds
from nodepool_k8s.config.sections import Section


@dataclass(frozen=True, slots=True)
class AccessTokenSettings:
    """``access-token``. ``kind`` is ``request`` or ``secret``; ``lifetime`` in seconds."""

    kind: str = "request"
    lifetime: float = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """How a node is launched and removed; set on provider, pool or label, the nearest wins."""

    launch_timeout: float = 300.0
    image_pull_timeout: float = 120.0
    unschedulable_timeout: float | None = None
    """None: the same as ``launch_timeout``."""
    deletion_grace: float = 1.0
    ready_when: str = "ready"
    """``ready`` (the pod's condition) or ``running`` (its phase, as Nodepool had it)."""
    access_token: AccessTokenSettings = AccessTokenSettings()
    ready_check: str = "running"
    """``running`` (nothing is tried) or ``exec`` (a command is run in each pod first)."""


def _seconds(document: Document, place: Path) -> float | None:
    return seconds(document.get(place))


TOKEN_OPTIONS = (
    Option("type", values.one_of("request", "secret"), field="kind"),
    Option(
        "lifetime",
        values.duration(minimum=600, because="the least that Kubernetes grants"),
        field="lifetime",
        read=_seconds,
    ),
)
ACCESS_TOKEN = Section("a mapping with type and lifetime", validators(TOKEN_OPTIONS))

OPTIONS = (
    Option(
        "launch-timeout",
        values.duration(),
        field="launch_timeout",
        read=_seconds,
        in_namespace=True,
        beside_spec=True,
    ),
    Option(
        "image-pull-timeout",
        values.duration(),
        field="image_pull_timeout",
        read=_seconds,
        in_namespace=True,
        beside_spec=True,
    ),
    Option(
        "unschedulable-timeout",
        values.duration(),
        field="unschedulable_timeout",
        read=_seconds,
        in_namespace=True,
        beside_spec=True,
    ),
    Option(
        "deletion-grace",
        values.duration(
            minimum=1, because="0 would be a forced delete, which hides containers that still run"
        ),
        field="deletion_grace",
        read=_seconds,
        in_namespace=True,
        beside_spec=True,
    ),
    Option(
        "ready-when",
        values.one_of("ready", "running"),
        field="ready_when",
        in_namespace=True,
        beside_spec=True,
    ),
    Option(
        "ready-check",
        values.one_of("running", "exec"),
        field="ready_check",
        in_namespace=True,
        beside_spec=True,
    ),
    Option("access-token", ACCESS_TOKEN, in_namespace=True, beside_spec=True),
)


def resolve(document: Document, path: Path, label: RawLabel, resolved: Mapping[str, Any]) -> Fields:
    """Let the label override its pool, and the pool its provider, option by option."""
    launch: Fields = {}
    token: Fields = {}
    # providers[n], providers[n].pools[n], and the label.
    for place in (path[:2], path[:4], path):
        launch |= fields(OPTIONS, document, place, document.get(place))
        inner = (*place, "access-token")
        token |= fields(TOKEN_OPTIONS, document, inner, document.get(inner) or {})
    return {"launch": LaunchSettings(**launch, access_token=AccessTokenSettings(**token))}


TOPIC = Topic(OPTIONS, resolve)
