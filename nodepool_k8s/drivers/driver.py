"""What the launcher asks a driver. ``tests/contract`` holds every driver to it.

All calls are in terms of nodes. Whatever a backend refuses, or fails to answer, is raised as
DriverError, except in an attempt, where it becomes one of the outcomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
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
from nodepool_k8s.model import Node, NodeRequest

Spawn: TypeAlias = Callable[[str, Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Starts a supervised task, by its name."""


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """One attempt at one node, as the launcher tells a driver of it.

    ``number`` counts from 0 and is part of the external id, so that an attempt never meets
    what is left of the one before it.
    """

    pool: Pool
    label: Label
    request: NodeRequest
    node_id: str
    number: int
    record: Callable[[Mapping[str, Any]], Awaitable[None]]
    """Writes these keys into the record's ``driver_data``, under the node's lock.

    Fencing: a driver awaits it after the backend has given the node an identity, and before
    it creates anything that uses resources. It raises where the lock is not ours any more.
    """
    report: Callable[[str], None]
    """Told what is being waited for, for a person."""
    step_done: Callable[[str], None]
    """Told that one of the driver's ``steps`` is done."""
    is_pointless: Callable[[], bool]
    """True once another launcher will remove what is being created."""


class Attempt(Protocol):
    """One attempt at one node."""

    async def create(
        self,
    ) -> Created | CapacityRefused | BackendTrouble | Retryable | Permanent:
        """Create the node's objects; goes on where it stopped when it is called again."""

    async def wait_ready(self) -> Ready | Retryable | Permanent:
        """Wait until the node can be used, within the label's timeouts."""

    def is_ready(self) -> bool:
        """Whether a node that was ready still is."""

    async def remove(self, grace: float) -> None:
        """Remove a failed attempt, so that the next one fits into the same capacity.

        ``grace`` in seconds. Raises DriverError.
        """


class Observer(Protocol):
    """Told at once what happens at a backend; must not block or raise."""

    def node_lost(self, node_id: str, external_id: str) -> None:
        """A node's objects went, ended, or work no longer."""

    def health_changed(self, driver: Driver) -> None:
        """A driver is in touch with its backend again, or no longer."""


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
        """What tells its backend from all others; empty before ``start`` is through."""

    @property
    def health(self) -> Health:
        """Whether it can be used now."""

    # --- connecting ---------------------------------------------------------------------------

    async def start(self, spawn: Spawn) -> None:
        """Connect; can be called again where it raises DriverError."""

    async def synced(self) -> None:
        """Wait until ``start`` is through and everything that exists is known."""

    def serve(self, provider: Provider) -> None:
        """Be ready for nodes of the provider's labels, as they are configured now."""

    def observe(self, observer: Observer) -> None:
        """Tell that one from now on."""

    async def close(self) -> None:
        """Close every connection; nothing is removed."""

    # --- nodes --------------------------------------------------------------------------------

    def external_id(self, pool: Pool, node_id: str, attempt: int) -> str:
        """What a node's record names before anything is created for the attempt."""

    def driver_data(self, label: Label) -> Mapping[str, Any]:
        """What a driver needs to know of a node to remove it, whatever is configured then."""

    def attempt(self, context: AttemptContext) -> Attempt:
        """Begin an attempt; nothing is created yet."""

    def why_unusable(self, node: Node, launch: LaunchSettings) -> str | None:
        """Why a ready node may not be handed out, as far as the driver was told."""

    async def why_lost(self, node: Node, launch: LaunchSettings) -> str | None:
        """Why a ready node may not be handed out, asked of the backend itself."""

    async def prepare_reuse(self, node: Node, label: Label, request: NodeRequest) -> Ready | Lost:
        """Make a ready node the request's; Ready has what changed in its record."""

    async def changed(self, external_id: str, timeout: float) -> bool:
        """Wait for the next change there; False after ``timeout`` seconds."""

    async def delete(self, node: Node, grace: float) -> None:
        """Delete a node's objects; returns when nothing of it uses resources any more.

        ``grace`` is in seconds. Can be called again, and for what is gone already.
        """

    # --- what is there ------------------------------------------------------------------------

    async def list_owned(self) -> tuple[Owned, ...]:
        """Everything of this deployment at the backend, by all its providers."""

    async def delete_owned(self, external_id: str, grace: float) -> None:
        """Begin to delete what no node's record names."""

    async def blockers(self, external_id: str) -> tuple[str, ...]:
        """What keeps a deletion from ending, in the backend's words; empty where unknown."""

    def count_terminating(self) -> int:
        """How many external ids are being deleted, as far as the driver was told."""


class DriverFactory(Protocol):
    """Makes the drivers of one ``driver:`` name."""

    def create(self, provider: Provider, deployment: str) -> Driver:
        """The driver of a provider; ``deployment`` marks all that it creates."""

    def obstacle(self, context: str | None) -> str | None:
        """Why a provider's context cannot be connected to; None where that is not known."""
