"""What limits how many launches run at once: slots of a provider, and of a pool.

``LaunchSlots`` counts the launches of a provider against its ``max-concurrency``.
``CreateSlots`` bounds how many nodes of one pool have their objects created at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from nodepool_k8s.config.settings import Provider

MAX_CONCURRENT_CREATES = 32
"""Nodes of a pool whose objects are created at the same time. More of them only slow each
other down at the API server, and each pod starts later: see ``tools/bench``."""


class SlotsObserver(Protocol):
    """A pool's queue, which waits for slots."""

    def wake(self) -> None:
        """There may be a slot now, or none any more."""


class LaunchSlots:
    """How many launches of a provider are under way; shared by all of its pools."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.launching = 0
        """Launches under way, in all pools of the provider."""
        self._observers: list[SlotsObserver] = []
        self._held_back: list[SlotsObserver] = []
        """The queues that found no free slot since one was freed the last time."""

    @property
    def limit(self) -> int | None:
        """``max-concurrency``; None: no limit."""
        return self._provider.max_concurrency

    @property
    def full(self) -> bool:
        """Whether ``max-concurrency`` launches are under way."""
        return self.limit is not None and self.launching >= self.limit

    def observe(self, observer: SlotsObserver) -> None:
        """Wake this one whenever ``max-concurrency`` changes."""
        self._observers.append(observer)

    def forget(self, observer: SlotsObserver) -> None:
        """The pool is not served any more."""
        self._observers.remove(observer)

    def hold_back(self, observer: SlotsObserver) -> None:
        """Wake this one, once, when launches have ended."""
        self._held_back.append(observer)

    @contextmanager
    def reserved(self, launches: int) -> Iterator[None]:
        """Count launches for all pools from now on, unless this raises: they are to be claimed."""
        self.launching += launches
        try:
            yield
        except BaseException:
            self.free(launches)
            raise

    def free(self, launches: int) -> None:
        """Launches have ended, however they ended, or were not claimed after all."""
        self.launching -= launches
        held_back, self._held_back = self._held_back, []
        for observer in held_back:
            observer.wake()

    def reconfigure(self, provider: Provider) -> None:
        """Apply another ``max-concurrency`` from now on."""
        self._provider = provider
        for observer in self._observers:
            observer.wake()


class CreateSlots(asyncio.Semaphore):
    """Held while a node's objects are created, not while its pod starts; one a pool.

    Knows, too, whether a ResourceQuota of the cluster refuses them: then the pool claims
    nothing more, as it would only queue up there.
    """

    def __init__(self, observer: SlotsObserver) -> None:
        super().__init__(MAX_CONCURRENT_CREATES)
        self._observer = observer
        self._refused = 0

    @property
    def refused(self) -> bool:
        """Whether the cluster refuses to create a node's objects now."""
        return self._refused > 0

    @contextmanager
    def refusal(self) -> Iterator[None]:
        """One launch is refused by the cluster, for as long as this lasts."""
        self._refused += 1
        self._observer.wake()
        try:
            yield
        finally:
            self._refused -= 1
            self._observer.wake()
