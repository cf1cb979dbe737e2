"""Launches one node: makes attempts until one succeeds or no further one can."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import Any

from nodepool_k8s import telemetry
from nodepool_k8s.aio import run_to_completion
from nodepool_k8s.backoff import Backoff
from nodepool_k8s.config.settings import Label
from nodepool_k8s.drivers.driver import Attempt, AttemptContext
from nodepool_k8s.drivers.outcomes import (
    BackendTrouble,
    CapacityRefused,
    Created,
    Failure,
    Permanent,
    Ready,
    Retryable,
)
from nodepool_k8s.errors import DriverError, LaunchError
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.launcher.launch_slots import CreateSlots
from nodepool_k8s.logs import bind_log_context
from nodepool_k8s.model import DriverData, NodeRequest, NodeState
from nodepool_k8s.znodes.nodes import with_driver_data
from nodepool_k8s.zookeeper.held_node import HeldNode

log = logging.getLogger(__name__)


class Launch:
    """The launch of one node. ``held`` is the record as last written, or to be written."""

    launched = True

    def __init__(
        self, context: LaunchContext, slots: CreateSlots, held: HeldNode, request: NodeRequest
    ) -> None:
        self.held = held
        self.written = False
        """Whether the ready ``held`` is written to ZooKeeper."""
        self.failure = ""
        self._waits_for = "its turn"
        self._context = context
        self._driver = context.driver
        self._slots = slots
        self._request = request
        self._label: Label = context.pool.labels[held.node.type[0]]
        self._attempt: Attempt | None = None
        self._attempts = 0
        """The number of attempts so far; an attempt's number is never used again."""
        self._steps: dict[str, float] = {}
        self._step_began = 0.0
        self._metrics = telemetry.LaunchFigures(
            request, context.pool, self._label.name, held.node.id
        )

    @property
    def waits_for(self) -> str:
        """What it is waiting for, as a text for people."""
        return self._waits_for

    @waits_for.setter
    def waits_for(self, what: str) -> None:
        self._waits_for = what
        self._context.observer.progressed()

    @property
    def step(self) -> str:
        """The current step, by its name in the metrics."""
        steps = self._driver.steps
        return next((step for step in steps if step not in self._steps), steps[-1])

    async def run(self) -> None:
        """Launch the node; sets ``held`` to ready without writing it.

        Raises LaunchError with the reason of the last attempt.
        """
        bind_log_context(node=self.held.node.id, label=self._label.name)
        with self._metrics.launching():
            await self._attempt_until_ready()

    async def _attempt_until_ready(self) -> None:
        attempts = max(1, self._context.provider.launch_retries)
        while True:
            if self._attempt is not None:
                await self._remove(self._attempt)
            self._attempts += 1
            self._attempt = await self._new_attempt(self._attempts - 1)
            outcome = await self._make(self._attempt)
            if isinstance(outcome, Ready):
                self._finish(outcome)
                return
            self._failed(outcome, attempts)
            if isinstance(outcome, Permanent) or self._attempts >= attempts:
                raise LaunchError(
                    f"label {self._label.name}: {outcome.reason}", failure=outcome.failure
                )

    def _failed(self, outcome: Retryable | Permanent, attempts: int) -> None:
        self._metrics.attempt_failed(outcome.failure, outcome.reason, self._steps)
        self.failure = outcome.reason
        self._context.observer.attempt_failed(self._request, self.held.node, self.failure)
        log.warning(
            "Attempt %d of %d at node %s failed%s: %s",
            self._attempts,
            attempts,
            self.held.node.id,
            " for good" if isinstance(outcome, Permanent) else "",
            outcome.reason,
        )

    def is_ready(self) -> bool:
        """Whether the node is ready and its objects still work."""
        is_ready = self.held.node.state is NodeState.READY
        return is_ready and self._attempt is not None and self._attempt.is_ready()

    async def write(self) -> None:
        """Write the ready node."""
        self.held = await self._context.store.write_node(self.held)
        self.written = True

    # --- one attempt ------------------------------------------------------------------------

    async def _new_attempt(self, number: int) -> Attempt:
        self._steps = {}
        self._step_began = time.monotonic()
        self._metrics.attempt_begins()
        pool, node = self._context.pool, self.held.node
        if number:
            # Written before anything is created, so that the record names the objects.
            self.written = False
            await self._write(external_id=self._driver.external_id(pool, node.id, number))
        return self._driver.attempt(
            AttemptContext(
                provider=self._context.provider,
                pool=pool,
                label=self._label,
                request=self._request,
                node_id=node.id,
                number=number,
                record=self._record,
                report=self._report,
                step_done=self._step_done,
                is_pointless=lambda: self._context.store.session_over,
            )
        )

    async def _make(self, attempt: Attempt) -> Ready | Retryable | Permanent:
        async with self._slots:
            outcome = await self._create(attempt)
        return await attempt.wait_ready() if isinstance(outcome, Created) else outcome

    async def _create(self, attempt: Attempt) -> Created | Retryable | Permanent:
        """Create the node's objects.

        Waits, without using up an attempt, while the backend's own quota refuses it, and, for
        no longer than ``launch-timeout``, while the backend does not answer.
        """
        began = time.monotonic()
        refusals, absences = Backoff(), Backoff()
        with ExitStack() as refused:
            while True:
                outcome = await attempt.create()
                match outcome:
                    case CapacityRefused(reason):
                        if not refusals.failures:
                            refused.enter_context(self._slots.refusal())
                            log.warning("Waiting, no attempt used up: %s", reason)
                        self.waits_for = reason
                        await refusals.wait()
                    case BackendTrouble(reason):
                        if time.monotonic() - began >= self._label.launch.launch_timeout:
                            return Retryable(reason, Failure.API)
                        self.waits_for = reason
                        await absences.wait()
                    case _:
                        return outcome

    async def _record(self, driver_data: DriverData) -> None:
        await self._write(driver_data=with_driver_data(self.held.node, driver_data))

    async def _write(self, **changes: Any) -> None:
        write = self._context.store.write_node(self.held.evolve(**changes))
        self.held = await run_to_completion(write)

    def _report(self, what: str) -> None:
        self.waits_for = what

    def _step_done(self, name: str) -> None:
        now = time.monotonic()
        self._steps[name] = now - self._step_began
        self._step_began = now

    # --- the end of an attempt ------------------------------------------------------------

    async def _remove(self, attempt: Attempt) -> None:
        """Remove a failed attempt, so that the next one fits the same capacity."""
        backoff = Backoff()
        while True:
            try:
                await attempt.remove(self._label.launch.deletion_grace)
            except DriverError as error:
                log.warning("Removing a failed attempt failed, trying again: %s", error)
                await backoff.wait()
            else:
                return

    def _finish(self, ready: Ready) -> None:
        node = self.held.node
        log.info(
            "Node %s is ready: %s",
            node.id,
            ", ".join(f"{step} {seconds:.3f} s" for step, seconds in self._steps.items()),
        )
        self._metrics.ready(self._steps)
        steps = {step: round(seconds, 4) for step, seconds in self._steps.items()}
        self.held = self.held.move_to(
            NodeState.READY,
            time.time(),
            extra={**node.extra, **ready.fields},
            driver_data=with_driver_data(node, {**ready.driver_data, "steps": steps}),
        )
