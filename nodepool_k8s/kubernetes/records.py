"""From the API server's JSON to our records, and no more of it than decides something.

Records are kept for every pod there is, so they are small: what nobody asks for is
dropped, and what most pods have in common is shared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any

from nodepool_k8s.model import Condition, ContainerState, Namespace, Pod

TELLING_CONDITIONS = frozenset({"Ready", "PodScheduled", "DisruptionTarget"})
"""The conditions that a decision or a reason for a person is made of."""

MESSAGE_LENGTH = 512
"""Image errors repeat whole manifests; a record needs the beginning."""


def namespace_record(raw: dict[str, Any]) -> Namespace:
    """Read a namespace, or its metadata alone; raises KeyError for what isn't one."""
    metadata = raw["metadata"]
    return Namespace(
        name=metadata["name"],
        uid=metadata["uid"],
        # Most keys and values are the same in every namespace of ours.
        labels={
            sys.intern(key): sys.intern(value)
            for key, value in (metadata.get("labels") or {}).items()
        },
        deleting="deletionTimestamp" in metadata,
        deleted_at=_seconds(metadata.get("deletionTimestamp")),
    )


def pod_record(raw: dict[str, Any]) -> Pod:
    """Read a pod; raises KeyError or the like for what isn't one."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    spec = raw.get("spec") or {}
    host = spec.get("nodeName")
    return Pod(
        namespace=metadata["namespace"],
        name=sys.intern(metadata["name"]),
        uid=metadata["uid"],
        phase=sys.intern(status.get("phase", "Pending")),
        conditions=tuple(_conditions(status)),
        containers=tuple(_containers(status)),
        host=sys.intern(host) if host else None,
        reason=status.get("reason", ""),
        message=_clipped(status.get("message", "")),
        deleting="deletionTimestamp" in metadata,
        grace=spec.get("terminationGracePeriodSeconds", 30),
        scheduler=sys.intern(spec.get("schedulerName", "")),
        resource_version=metadata["resourceVersion"],
    )


def _conditions(status: dict[str, Any]) -> Iterator[Condition]:
    for entry in status.get("conditions") or ():
        if entry["type"] in TELLING_CONDITIONS:
            yield _condition(
                entry["type"],
                entry["status"],
                entry.get("reason") or "",
                _clipped(entry.get("message") or ""),
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
        entry["name"],
        kind,
        detail.get("reason") or "",
        _clipped(detail.get("message") or ""),
        detail.get("exitCode"),
        entry.get("restartCount", 0),
        init,
        last.get("reason") or "",
        last.get("exitCode"),
    )


def _seconds(timestamp: str | None) -> float | None:
    try:
        return datetime.fromisoformat(timestamp).timestamp() if timestamp else None
    except ValueError:
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
