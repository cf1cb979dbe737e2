"""A label's options by topic: one module for each, and here all of them together.

A topic module has

- ``OPTIONS``: a row for each option, see ``config.option.Option``;
- the frozen record that the options become, a field of ``config.settings.Label``;
- ``check(review, path, label, pool)``: reports options that contradict each other;
- ``resolve(document, path, label, resolved)``: returns fields of ``Label``; called once for each
  label. ``resolved`` has the fields of the topics before it in ``TOPICS``;
- ``TOPIC``: all of these.

``label`` is what applies to the label: its own options, then those of its profiles, then
the pool's defaults (``config.inheritance`` has put them there, and ``path`` + key finds each,
with the line and the path where it was written; ``document.distance`` tells how near that is,
which decides between two options that say the same). ``check`` is not called for labels with a
raw spec; on a namespace label only the options whose row says ``in_namespace`` are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodepool_k8s.config.document import Document
from nodepool_k8s.config.freeform import Validator
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic, validators
from nodepool_k8s.config.options import (
    common,
    copies,
    launch,
    network,
    placement,
    pod_spec,
    profiles,
    replicas,
    resources,
    security,
    volumes,
    workload,
)
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.review import Review

DEFAULT = "default-label-"
"""The prefix of options that a pool sets for its labels."""

TOPICS: tuple[Topic, ...] = (
    common.TOPIC,
    pod_spec.TOPIC,
    profiles.TOPIC,
    resources.TOPIC,
    placement.TOPIC,
    workload.TOPIC,
    volumes.TOPIC,
    security.TOPIC,
    network.TOPIC,
    copies.TOPIC,
    replicas.TOPIC,
    launch.TOPIC,
)

OPTIONS: tuple[Option, ...] = tuple(option for topic in TOPICS for option in topic.options)

KEYS: Mapping[str, Validator] = validators(OPTIONS)
IN_PROFILE: Mapping[str, Validator] = validators(row for row in OPTIONS if row.in_profile)
LAUNCH: Mapping[str, Validator] = launch.TOPIC.keys
"""Options that providers and pools have, too."""
DEFAULTS = frozenset(option.key for option in OPTIONS if option.pool_default)
IN_NAMESPACE = frozenset(option.key for option in OPTIONS if option.in_namespace)
BESIDE_SPEC = frozenset(option.key for option in OPTIONS if option.beside_spec)
MERGED = frozenset(option.key for option in OPTIONS if option.merged)


def check(review: Review, path: Path, label: RawLabel, pool: RawLabel) -> None:
    """Check one label's options, topic by topic."""
    for topic in TOPICS:
        topic.check(review, path, label, pool)


def effective(label: RawLabel) -> frozenset[str]:
    """The options that have an effect on a label of its type, with or without a raw spec."""
    if label["type"] == "namespace":
        return IN_NAMESPACE
    return BESIDE_SPEC if "spec" in label else frozenset(KEYS)


def resolve(document: Document, path: Path) -> Fields:
    """Return the fields of the ``Label`` at ``path``, by each topic that concerns its type."""
    written = document.get(path)
    keys = effective(written)
    label = {key: written[key] for key in written if key in keys}
    resolved: dict[str, Any] = {}
    for topic in TOPICS:
        if not keys.isdisjoint(topic.keys):
            resolved |= topic.resolve(document, path, label, resolved)
    return resolved
