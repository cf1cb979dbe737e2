"""``spec``: a Kubernetes pod spec, instead of the options that make one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voluptuous import Invalid, MultipleInvalid

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.freeform import json_value, named_object, require_key
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic, fields
from nodepool_k8s.config.problems import InvalidValue, Path
from nodepool_k8s.config.sections import ListOf


def _container(value: Any) -> Any:
    return named_object("a Kubernetes container", values.dns_label("a container's name"), value)


CONTAINERS = ListOf(
    "a list of at least one container, of which the first is long-running", _container, empty=False
)


def _pod_spec(value: Any) -> Any:
    """Check of a raw spec what the launcher relies on; the rest is the API server's."""
    if not isinstance(value, dict):
        raise InvalidValue("a Kubernetes pod spec: a mapping with containers")
    require_key("containers", values.Value(CONTAINERS.expected, _is_list), value)
    errors: list[Invalid] = []
    for path, check, part in (((), json_value, value), (("containers",), CONTAINERS, None)):
        try:
            check(value["containers"] if part is None else part)
        except Invalid as error:
            error.prepend(list(path))
            errors += error.errors if isinstance(error, MultipleInvalid) else [error]
    if errors:
        raise MultipleInvalid(_once(errors))
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _once(errors: list[Invalid]) -> list[Invalid]:
    """Keep the first error of each place: both validators may have reported it."""
    return list({tuple(error.path): error for error in reversed(errors)}.values())


OPTIONS = (Option("spec", _pod_spec, field="spec", beside_spec=True, in_profile=False),)


def resolve(document: Document, path: Path, label: RawLabel, resolved: Mapping[str, Any]) -> Fields:
    """Take the spec as it is."""
    return fields(OPTIONS, document, path, label)


TOPIC = Topic(OPTIONS, resolve)
