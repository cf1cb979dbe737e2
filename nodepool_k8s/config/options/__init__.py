"""A label's options by topic: one module for each, and here what they have in common.

A topic module exports

- ``KEYS``: its options, each with its validator; they become options of labels and profiles;
- ``DEFAULTS``: those of them that a pool may give as ``default-label-<key>``;
- ``IN_NAMESPACE``: those that have an effect on a label of the type ``namespace``;
- ``check(review, path, label, pool)``: what its options mean to one another and to others;
- ``resolve(document, path, label)``: its frozen record of ``settings``; nothing can fail
  there. It is called by ``config.resolve`` by name, because each returns a type of its own.

``label`` is what applies to the label: its own options, then those of its profiles, then
the pool's defaults (``config.inheritance`` has put them there, and ``path`` + key finds each,
with the line and the path where it was written; ``document.distance`` tells how near that is,
which decides between two options that say the same). Check and resolve are not called for
labels with a raw spec; for namespace labels ``label`` has only what ``IN_NAMESPACE`` allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from nodepool_k8s.config.freeform import Validator
from nodepool_k8s.config.options import (
    copies,
    network,
    placement,
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
"""What a pool puts before the options that it gives to its labels."""


class Topic(Protocol):
    """A module of this package."""

    KEYS: Mapping[str, Validator]
    DEFAULTS: frozenset[str]
    IN_NAMESPACE: frozenset[str]

    def check(
        self, review: Review, path: Path, label: dict[str, Any], pool: dict[str, Any]
    ) -> None:
        """Report what is wrong with the topic's options together, adding to the review."""


TOPICS: tuple[Topic, ...] = (
    profiles,
    resources,
    placement,
    workload,
    volumes,
    security,
    network,
    copies,
    replicas,
)

KEYS: Mapping[str, Validator] = {
    key: check for topic in TOPICS for key, check in topic.KEYS.items()
}

DEFAULTS: frozenset[str] = frozenset().union(*(topic.DEFAULTS for topic in TOPICS))

IN_NAMESPACE: frozenset[str] = frozenset().union(*(topic.IN_NAMESPACE for topic in TOPICS))


def check(review: Review, path: Path, label: dict[str, Any], pool: dict[str, Any]) -> None:
    """Check one label's options, topic by topic."""
    for topic in TOPICS:
        topic.check(review, path, label, pool)
