"""From the API server's JSON to records with the fields that decisions need.

Records are kept for every pod, so they are small: unused fields are dropped, and values
that most pods have in common are shared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

from nodepool_k8s.errors import MalformedAnswer
from nodepool_k8s.model import Condition, ContainerState, Namespace, Pod

T = TypeVar("T")

RELEVANT_CONDITIONS = frozenset({"Ready", "PodScheduled", "DisruptionTarget"})
"""The conditions that decisions and shown reasons depend on."""

MESSAGE_LENGTH = 512
"""Characters. Image errors repeat whole manifests; a record needs the beginning."""


@contextmanager
def parsing(what: str) -> Iterator[None]:
    """Raise MalformedAnswer for errors in the block, which reads an answer."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        missing = f"it has no {error}" if isinstance(error, KeyError) else error
        raise MalformedAnswer(f"{what} cannot be read: {missing}") from error


def list_items(page: dict[str, Any]) -> list[dict[str, Any]]:
    """The items of a page of a list. Without a version it is not an API server's answer."""
    required_text(page["metadata"]["resourceVersion"])
    found = page.get("items") or []
    if not isinstance(found, list):
        raise TypeError(f"items is {_kind(found)} where a list was expected")
    return found


def required_text(value: object) -> str:
    """Check that it is text, and not empty."""
    if not isinstance(value, str) or not value:
        raise TypeError(f"{_kind(value)} is no name")
    return value


def optional_text(raw: dict[str, Any], key: str) -> str:
    """Read a text that may be missing."""
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{key} is {_kind(value)} where text was expected")
    return value or ""


def optional_integer(raw: dict[str, Any], key: str, default: T) -> int | T:
    """Read a whole number that may be missing."""
    value = raw.get(key)
    if value is None:
        return default
    if not isinstance(value, int):
        raise TypeError(f"{key} is {_kind(value)} where a whole number was expected")
    return value


def namespace_record(raw: dict[str, Any]) -> Namespace:
    """Read a namespace, or its metadata alone; raises MalformedAnswer for what isn't one."""
    with parsing("a namespace"):
        metadata = raw["metadata"]
        name = metadata["name"]
        with parsing(f"namespace {required_text(name)}"):
            return _namespace(name, metadata)


def _namespace(name: str, metadata: dict[str, Any]) -> Namespace:
    return Namespace(
        name=name,
        uid=required_text(metadata["uid"]),
        # Most keys and values are the same in all namespaces.
        labels={
            sys.intern(key): sys.intern(value)
            for key, value in (metadata.get("labels") or {}).items()
        },
        deleting="deletionTimestamp" in metadata,
        deleted_at=_seconds(metadata.get("deletionTimestamp")),
    )


def pod_record(raw: dict[str, Any]) -> Pod:
    """Read a pod; raises MalformedAnswer for what isn't one."""
    with parsing("a pod"):
        metadata = raw["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        with parsing(f"pod {required_text(namespace)}/{required_text(name)}"):
            return _pod(raw, namespace, name)


def _pod(raw: dict[str, Any], namespace: str, name: str) -> Pod:
    metadata, status, spec = raw["metadata"], raw.get("status") or {}, raw.get("spec") or {}
    host = spec.get("nodeName")
    return Pod(
        namespace=namespace,
        name=sys.intern(name),
        uid=required_text(metadata["uid"]),
        phase=sys.intern(status.get("phase") or "Pending"),
        conditions=tuple(_conditions(status)),
        containers=tuple(_containers(status)),
        host=sys.intern(host) if host else None,
        reason=optional_text(status, "reason"),
        message=_clipped(optional_text(status, "message")),
        deleting="deletionTimestamp" in metadata,
        grace=optional_integer(spec, "terminationGracePeriodSeconds", 30),
        scheduler=sys.intern(optional_text(spec, "schedulerName")),
    )


def _conditions(status: dict[str, Any]) -> Iterator[Condition]:
    for entry in status.get("conditions") or ():
        if entry["type"] in RELEVANT_CONDITIONS:
            yield _condition(
                entry["type"],
                optional_text(entry, "status"),
                optional_text(entry, "reason"),
                _clipped(optional_text(entry, "message")),
            )


def _containers(status: dict[str, Any]) -> Iterator[ContainerState]:
    for entry in status.get("initContainerStatuses") or ():
        yield _container(entry, init=True)
    for entry in status.get("containerStatuses") or ():
        yield _container(entry, init=False)


def _container(entry: dict[str, Any], *, init: bool) -> ContainerState:
    states: dict[str, Any] = entry.get("state") or {"waiting": {}}
    kind, detail = next(iter(states.items()))
    last: dict[str, Any] = (entry.get("lastState") or {}).get("terminated") or {}
    return _state(
        required_text(entry["name"]),
        kind,
        optional_text(detail, "reason"),
        _clipped(optional_text(detail, "message")),
        optional_integer(detail, "exitCode", None),
        optional_integer(entry, "restartCount", 0),
        init,
        optional_text(last, "reason"),
        optional_integer(last, "exitCode", None),
    )


def _kind(value: object) -> str:
    # Not the value: its length and depth are unlimited.
    return f"a value of type {type(value).__name__}" if value != "" else "an empty text"


def _seconds(timestamp: str | None) -> float | None:
    try:
        return datetime.fromisoformat(timestamp).timestamp() if timestamp else None
    except (ValueError, OverflowError):
        return None


def _clipped(message: str) -> str:
    return message if len(message) <= MESSAGE_LENGTH else message[:MESSAGE_LENGTH] + "..."


@lru_cache(maxsize=1024)
def _condition(kind: str, status: str, reason: str, message: str) -> Condition:
    return Condition(kind, status, reason, message)


@lru_cache(maxsize=1024)
def _state(
    name: str,
    state: str,
    reason: str,
    message: str,
    exit_code: int | None,
    restart_count: int,
    init: bool,
    last_reason: str,
    last_exit_code: int | None,
) -> ContainerState:
    return ContainerState(
        name, state, reason, message, exit_code, restart_count, init, last_reason, last_exit_code
    )
