"""``profile``: the names of entries of the top-level ``profiles``, whose options a label takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.freeform import Validator
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic
from nodepool_k8s.config.problems import InvalidValue, Path
from nodepool_k8s.config.review import Review
from nodepool_k8s.config.sections import Choice, ListOf

NAME = values.text("the name of a profile")
EXPECTED = "the name of an entry of the top-level profiles, or a list of names"


def _one_or_more(value: Any) -> Validator:
    if isinstance(value, list):
        return ListOf(EXPECTED, NAME, empty=False)
    if isinstance(value, dict):
        raise InvalidValue(EXPECTED)
    return NAME


OPTIONS = (Option("profile", Choice(EXPECTED, _one_or_more), pool_default=True, in_namespace=True),)


def layers(review: Review, named: Any) -> Iterator[Mapping[str, Path]]:
    """The options of these profiles, nearest first, and where each is written."""
    found = _entries(review)
    for name in _flat(found, named, set()):
        place, profile = found[name]
        yield {key: (*place, key) for key in profile if key not in ("name", "profile")}


def _flat(found: Mapping[str, Any], named: Any, seen: set[str]) -> Iterator[str]:
    """Names of all profiles that are meant, nearest first, each once."""
    for name in reversed(_names(named)):
        if name in found and name not in seen:
            seen.add(name)
            yield name
            yield from _flat(found, found[name][1].get("profile"), seen)


def check(review: Review, path: Path, label: RawLabel, pool: RawLabel) -> None:
    """Report unknown profiles."""
    _known(review, path, label)


def check_profiles(review: Review) -> None:
    """Check the top-level list: names are unique, and no profile includes itself."""
    review.check_unique(("profiles",), "name", "profile")
    found = _entries(review)
    for path, profile in review.mappings(("profiles",)):
        _known(review, path, profile)
        name = profile.get("name")
        if isinstance(name, str) and name in _reached(found, profile.get("profile")):
            review.report((*path, "profile"), f"is a loop: it leads back to '{name}'")


def _known(review: Review, path: Path, section: Mapping[str, Any]) -> None:
    if not review.is_valid(path, "profile") or not review.is_valid(("profiles",)):
        return
    found = _entries(review)
    here: Path = (*path, "profile")
    listed = isinstance(section.get("profile"), list)
    for place, name in enumerate(_names(section.get("profile"))):
        if name in found:
            continue
        near = get_close_matches(name, found, n=1)
        review.reject(
            (*here, place) if listed else here,
            EXPECTED,
            f"did you mean '{near[0]}'?" if near else "",
        )


def _reached(found: Mapping[str, Any], named: Any) -> set[str]:
    reached: set[str] = set()
    waiting = _names(named)
    while waiting:
        name = waiting.pop()
        if name in found and name not in reached:
            reached.add(name)
            waiting += _names(found[name][1].get("profile"))
    return reached


def _entries(review: Review) -> dict[str, tuple[Path, dict[str, Any]]]:
    entries = review.mappings(("profiles",))
    return {
        item["name"]: (path, item) for path, item in entries if isinstance(item.get("name"), str)
    }


def _names(named: Any) -> list[str]:
    listed = named if isinstance(named, list) else [named]
    return [name for name in listed if isinstance(name, str)]


def resolve(document: Document, path: Path, label: RawLabel, resolved: Mapping[str, Any]) -> Fields:
    """Return no fields: ``config.inheritance`` has put the profiles' options into the label."""
    return {}


TOPIC = Topic(OPTIONS, resolve, check)
