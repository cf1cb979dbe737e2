"""Watches the configuration's files, loads a changed configuration, and logs the changes.

Its observer applies the new settings, which have been validated as a whole. If a changed
configuration cannot be used, all its errors are reported and the current one stays in use.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

from nodepool_k8s import config
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.errors import ConfigError
from nodepool_k8s.launcher.systemd import SystemdNotifier

log = logging.getLogger(__name__)

Stamp: TypeAlias = tuple[tuple[int, ...] | None, ...]


class ConfigFiles:
    """The configuration's files: ``nodepool.yaml`` and, where there is one, the secure file."""

    def __init__(self, path: str, secure_path: str | None = None) -> None:
        self._path = path
        self._secure_path = secure_path
        self._loaded: Stamp = ()
        self._before: Stamp = ()

    def load(self) -> Settings:
        """Read and validate both. Raises ConfigError with all errors."""
        # Taken before reading, so that a write during it is noticed as another change.
        self._loaded = self._stamp()
        return config.load(self._path, self._secure_path)

    def have_changed(self) -> bool:
        """Whether a file has changed since it was loaded, but not since the last call.

        A file that is still being written may look complete: it has to be unchanged once.
        """
        now = self._stamp()
        settled = now != self._loaded and now == self._before
        self._before = now
        return settled

    def _stamp(self) -> Stamp:
        return tuple(_stamp(path) for path in (self._path, self._secure_path) if path is not None)


def _stamp(path: str) -> tuple[int, ...] | None:
    try:
        # Follows links: Kubernetes changes a mounted ConfigMap by replacing a link.
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


class ReloaderObserver(Protocol):
    """Applies a changed configuration."""

    def settings_changed(self, settings: Settings) -> None:
        """The files were changed; these settings were checked whole."""


class Reloader:
    """Checks the files for changes, and loads them."""

    def __init__(
        self,
        files: ConfigFiles,
        settings: Settings,
        observer: ReloaderObserver,
        interval: float,
        notifier: SystemdNotifier,
    ) -> None:
        self._files = files
        self._settings = settings
        self._observer = observer
        self._interval = interval
        self._notifier = notifier
        self._asked = asyncio.Event()
        self._reported = ""
        """The errors of the last load; empty if it succeeded."""

    def ask(self) -> None:
        """Load now, changed or not, and log the result."""
        self._asked.set()

    async def run(self) -> None:
        """Check for changes until cancelled."""
        while True:
            asked = await self._is_asked()
            if asked or self._files.have_changed():
                with self._notifier.reloading():
                    await self._load(asked=asked)

    async def _is_asked(self) -> bool:
        try:
            async with asyncio.timeout(self._interval):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True

    async def _load(self, *, asked: bool) -> None:
        try:
            settings = await asyncio.to_thread(self._files.load)
        except ConfigError as error:
            self._report(error, asked=asked)
            return
        self._reported = ""
        if settings == self._settings:
            log.info("The configuration was read again; nothing has changed")
            return
        for change in changes(self._settings, settings):
            log.info("The configuration has changed: %s", change)
        self._settings = settings
        self._observer.settings_changed(settings)

    def _report(self, error: ConfigError, *, asked: bool) -> None:
        if str(error) == self._reported and not asked:
            return
        self._reported = str(error)
        log.error("The changed configuration cannot be used; the current one stays in use")
        for problem in error.problems:
            log.error("%s", problem)


# --- differences -----------------------------------------------------------------------------


def changes(old: Settings, new: Settings) -> list[str]:
    """Describe each difference in a phrase, without any values."""
    found = [
        *_differences("provider", _providers(old), _providers(new)),
        *_differences("pool", _by_key(old), _by_key(new)),
        *_differences("label", old.labels, new.labels),
        *_differences("limits of tenant", old.tenant_limits, new.tenant_limits),
    ]
    if old.max_hold_age != new.max_hold_age:
        found.append("max-hold-age")
    if old.zookeeper != new.zookeeper:
        found.append("how to reach ZooKeeper; reconnecting")
    if old.webapp != new.webapp:
        found.append("where the web server listens")
    return found or ["nothing that the launcher uses"]


def _providers(settings: Settings) -> dict[str, Any]:
    # Without its pools, which are compared separately.
    return {each.name: dataclasses.replace(each, pools=()) for each in settings.providers}


def _by_key(settings: Settings) -> dict[str, Any]:
    return {pool.key: pool for pool in settings.pools}


def _differences(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    both = old.keys() & new.keys()
    yield from _sentence(what, new.keys() - old.keys(), "was added")
    yield from _sentence(what, (name for name in both if old[name] != new[name]), "has changed")
    yield from _sentence(what, old.keys() - new.keys(), "was removed")


def _sentence(what: str, names: Iterable[str], verb: str) -> Iterator[str]:
    for name in sorted(names):
        yield f"{what} {name} {verb}"
