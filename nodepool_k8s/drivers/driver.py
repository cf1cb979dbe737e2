"""The ``Driver`` protocol. ``tests/contract`` checks every driver against it.

All calls are in terms of nodes. Calls that a backend refuses or does not answer raise
DriverError, except in an attempt, where they become one of the outcomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from nodepool_k8s.config.settings import Label, LaunchSettings, Pool, Provider
from nodepool_k8s.drivers.outcomes import (
    BackendTrouble,
    CapacityRefused,
    Created,
    Health,
    Lost,
    Owned,
    Permanent,
    Ready,
    Retryable,
)
from nodepool_k8s.model import DriverData, Node, NodeRequest

Spawn: TypeAlias = Callable[[str, Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Starts a supervised task, by its name."""


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """What a driver gets for one attempt at one node.

    ``number`` counts from 0 and is part of the external id, so that an attempt never meets
    what is left of the one before it.
    """

    provider: Provider
    """As it was configured when the launch began, like ``pool`` and ``label``."""
    pool: Pool
    label: Label
    request: NodeRequest
    node_id: str
    number: int
    record: Callable[[DriverData], Awaitable[None]]
    """Writes these keys into the record's ``driver_data``, under the node's lock.

    Fencing: a driver awaits it after the backend has given the node an identity, and before
    it creates anything that uses resources. It raises if the lock was lost.
    """
    report: Callable[[str], None]
    """Called with what the attempt waits for, as a text for people."""
    step_done: Callable[[str], None]
    """Called when one of the driver's ``steps`` is done."""
    is_pointless: Callable[[], bool]
    """True once another launcher will delete what is being created."""


class Attempt(Protocol):
    """One attempt at one node."""

    async def create(
        self,
    ) -> Created | CapacityRefused | BackendTrouble | Retryable | Permanent:
        """Create the node's objects. Called again, it continues where it stopped."""

    async def wait_ready(self) -> Ready | Retryable | Permanent:
        """Wait until the node can be used, within the label's timeouts."""

    def is_ready(self) -> bool:
        """Whether a node that became ready still works."""

    async def remove(self, grace: float) -> None:
        """Remove a failed attempt, so that the next one fits into the same capacity.

        ``grace`` in seconds. Raises DriverError.
        """


class Observer(Protocol):
    """Notified at once of events at a backend; must not block or raise."""

    def node_lost(self, node_id: str, external_id: str) -> None:
        """A node's objects were deleted, ended, or no longer work."""

    def health_changed(self, driver: Driver) -> None:
        """A driver lost touch with its backend, or has it again."""


class Driver(Protocol):
    """One provider's backend, for as long as the provider has or wants something there."""

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of an attempt's steps, in order."""

    @property
    def provider(self) -> Provider:
        """The provider as it is configured now."""

    @property
    def identity(self) -> str:
        """Identifies its backend; empty before ``start`` is done."""

    @property
    def health(self) -> Health:
        """Whether it can be used now."""

    # --- connecting ---------------------------------------------------------------------------

    async def start(self, spawn: Spawn) -> None:
        """Connect; can be called again where it raises DriverError."""

    async def synced(self) -> None:
        """Wait until ``start`` is done and everything that exists is known."""

    def serve(self, provider: Provider) -> None:
        """Prepare for nodes of the provider's labels, as they are configured now."""

    def observe(self, observer: Observer) -> None:
        """Notify that observer from now on."""

    async def close(self) -> None:
        """Close every connection; nothing is removed."""

    # --- nodes --------------------------------------------------------------------------------

    def external_id(self, pool: Pool, node_id: str, attempt: int) -> str:
        """The name in the node's record, written before anything is created."""

    def driver_data(self, label: Label) -> DriverData:
        """What the driver needs to delete a node, whatever is configured then."""

    def attempt(self, context: AttemptContext) -> Attempt:
        """Begin an attempt without creating anything."""

    def why_unusable(self, node: Node, launch: LaunchSettings) -> str | None:
        """Why a ready node may not be handed out, by the driver's watches."""

    async def why_lost(self, node: Node, launch: LaunchSettings) -> str | None:
        """Why a ready node may not be handed out, by asking the backend."""

    async def prepare_reuse(self, node: Node, label: Label, request: NodeRequest) -> Ready | Lost:
        """Prepare a ready node for a request; Ready has the changes to its record."""

    async def changed(self, external_id: str, timeout: float) -> bool:
        """Wait for the next change there; False after ``timeout`` seconds."""

    async def delete(self, node: Node, grace: float) -> None:
        """Delete a node's objects; returns when the node uses no more resources.

        ``grace`` is in seconds. Can be called again, and for deleted nodes.
        """

    # --- what exists --------------------------------------------------------------------------

    async def list_owned(self) -> tuple[Owned, ...]:
        """Everything of this deployment at the backend, by all its providers."""

    async def delete_owned(self, external_id: str, grace: float) -> None:
        """Begin to delete objects that no node record names."""

    async def blockers(self, external_id: str) -> tuple[str, ...]:
        """What blocks a deletion, in the backend's words; empty where unknown."""

    def count_terminating(self) -> int:
        """How many external ids are being deleted, by the driver's watches."""


class DriverFactory(Protocol):
    """Creates the drivers of one ``driver:`` name."""

    def create(self, provider: Provider, deployment: str) -> Driver:
        """Create a provider's driver; ``deployment`` marks everything that it creates."""

    def obstacle(self, context: str | None) -> str | None:
        """Why a provider's context cannot be used; None where no reason is known."""
