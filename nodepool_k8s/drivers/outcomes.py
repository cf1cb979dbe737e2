"""The outcomes of what the launcher asks a driver. Plain frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nodepool_k8s.model import DriverData, empty


class Failure(StrEnum):
    """The kinds of failed attempts. The values are values of the metrics' label ``reason``."""

    IMAGE = "image"
    """The image's name, its registry or its credentials."""
    START = "start"
    """A container could not be started."""
    CRASHED = "crashed"
    """A container was started and ended with an error."""
    ENDED = "ended"
    """The node ended by itself."""
    EVICTED = "evicted"
    """The backend took the node back: evicted, preempted, shut down with its machine."""
    DELETED = "deleted"
    """The node was deleted by something other than the launcher."""
    UNSCHEDULABLE = "unschedulable"
    """No machine had room for it, or no scheduler answered."""
    TIMEOUT = "timeout"
    """Nothing decisive was seen until ``launch-timeout``."""
    QUOTA = "quota"
    """A quota of the backend refused it."""
    REFUSED = "refused"
    """The backend will not accept it: the label, a policy, missing rights."""
    SOURCE = "source"
    """An object that the node gets a copy of was missing or unusable."""
    CHECK = "check"
    """The node was ready, and ``ready-check`` could not run its command in it."""
    API = "api"
    """The backend did not answer, or failed."""
    SESSION = "session"
    """The ZooKeeper session ended during the launch."""
    UNKNOWN = "unknown"


# --- creating a node ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Created:
    """All objects of the node exist; it may still have to start."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The node can be used.

    ``fields`` are keys of its record that tell a requestor how to reach it, in Nodepool's
    form; ``driver_data`` is what the driver wants to find there again.
    """

    fields: Mapping[str, Any] = field(default_factory=empty, repr=False)
    driver_data: DriverData = field(default_factory=DriverData)


@dataclass(frozen=True, slots=True)
class CapacityRefused:
    """The backend's own quota is used up, and the node would fit into it: ask again later."""

    reason: str


@dataclass(frozen=True, slots=True)
class BackendTrouble:
    """The backend did not answer. Whether anything was created is unknown: ask again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retryable:
    """This attempt failed; another may succeed."""

    reason: str
    failure: Failure = Failure.UNKNOWN


@dataclass(frozen=True, slots=True)
class Permanent:
    """No attempt can succeed: the configuration or the backend must change first."""

    reason: str
    failure: Failure = Failure.UNKNOWN


@dataclass(frozen=True, slots=True)
class Lost:
    """A ready node cannot be handed out any more."""

    reason: str


# --- what exists --------------------------------------------------------------------------------

UNKNOWN_BLOCKERS = "the backend does not report what blocks it"
"""Shown where a driver names no ``blockers``."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a backend can be used now.

    ``in_sync``: what the driver shows includes all that existed when it connected.
    ``out_of_touch_since`` is the event loop's time since which it may be stale, None while
    it is current; before the driver has connected, since when it is wanted.
    """

    in_sync: bool
    out_of_touch_since: float | None

    @property
    def in_touch(self) -> bool:
        """Whether the driver is connected and current."""
        return self.in_sync and self.out_of_touch_since is None


@dataclass(frozen=True, slots=True)
class Owned:
    """What this deployment has at a backend under one external id.

    ``uid`` tells it from another of the same external id. ``deleted_at`` is when its
    deletion was accepted, in seconds since the epoch.
    """

    external_id: str
    uid: str
    node_id: str
    is_of_provider: bool
    """Whether the driver's provider created it, not another one at the same backend."""
    deleting: bool = False
    deleted_at: float | None = None
