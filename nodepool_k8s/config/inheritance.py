"""Options that a label inherits from its profiles and from its pool.

Nearest first: the label's own options, those of its profiles (a later one before an earlier one,
a profile's own before those of the profiles that it names), the pool's ``default-label-*``. An
option is taken whole from where it stands nearest, except for the mappings in ``options.MERGED``,
which are taken name by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nodepool_k8s.config import options
from nodepool_k8s.config.options import profiles
from nodepool_k8s.config.problems import Path
from nodepool_k8s.config.review import Review

Layer = Mapping[str, Path]
"""Options, and where each is written."""


def inherit(review: Review) -> None:
    """Add the inherited options to every label of our providers."""
    for path, _ in list(review.providers()):
        for pool_path, _ in list(review.mappings((*path, "pools"))):
            defaults = _defaults(review, pool_path)
            for label_path, _ in list(review.mappings((*pool_path, "labels"))):
                _inherit(review, label_path, defaults)


def _defaults(review: Review, pool: Path) -> Layer:
    written = review.document.get(pool)
    names = {f"{options.DEFAULT}{key}": key for key in options.DEFAULTS}
    return {names[key]: (*pool, key) for key in written if key in names}


def _inherit(review: Review, label: Path, defaults: Layer) -> None:
    own = review.document.get(label)
    if not review.is_valid(label, "type") or "spec" in own:
        return
    taken = options.IN_NAMESPACE if own.get("type") == "namespace" else None
    for distance, layer in enumerate(_layers(review, label, own, defaults), 1):
        for key, source in layer.items():
            if taken is None or key in taken:
                _take(review, (*label, key), source, distance)


def _layers(
    review: Review, label: Path, own: Mapping[str, object], defaults: Layer
) -> Iterator[Layer]:
    if "profile" not in own and "profile" in defaults:
        review.document.inherit((*label, "profile"), defaults["profile"], distance=1)
    yield from profiles.layers(review, review.document.get(label).get("profile"))
    yield defaults


def _take(review: Review, path: Path, source: Path, distance: int) -> None:
    document = review.document
    there, found = document.get(path), document.get(source)
    if document.entry(path) is None:
        document.inherit(path, source, distance=distance)
    elif path[-1] in options.MERGED and isinstance(there, dict) and isinstance(found, dict):
        for name in found:
            if name not in there:
                document.inherit((*path, name), (*source, name), distance=distance)
