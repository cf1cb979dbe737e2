"""The web server: what it listens on, and for how long.

It is one task. Where the port cannot be opened, that is logged and tried again, and node
requests are served meanwhile.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from nodepool_k8s.backoff import Backoff
from nodepool_k8s.config.settings import WebAppSettings
from nodepool_k8s.errors import describe
from nodepool_k8s.web.handlers import application
from nodepool_k8s.web.source import LauncherSource

log = logging.getLogger(__name__)

STOP_SECONDS = 1.0
"""How long answers under way may take when the listener stops."""

IDLE_SECONDS = 75.0
"""How long a connection may stay open between two requests."""


class WebServer:
    """Shows the launcher at the address that the settings name."""

    def __init__(self, source: LauncherSource, settings: WebAppSettings) -> None:
        self._source = source
        self._settings = settings
        self._changed = asyncio.Event()
        self.address: tuple[str, int] | None = None
        """Where it listens; None while it does not."""

    def reconfigure(self, settings: WebAppSettings) -> None:
        """Listen there from now on."""
        if settings != self._settings:
            self._settings = settings
            self._changed.set()

    async def run(self) -> None:
        """Listen until cancelled."""
        runner = web.AppRunner(
            application(self._source),
            access_log=None,
            logger=_protocol_log(),
            keepalive_timeout=IDLE_SECONDS,
            shutdown_timeout=STOP_SECONDS,
        )
        await runner.setup()
        try:
            while True:
                self._changed.clear()
                await self._listen(runner, self._settings)
        finally:
            self.address = None
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner, settings: WebAppSettings) -> None:
        """Listen until the settings change."""
        site = await self._bound(runner, settings)
        if site is None:
            return
        self.address = settings.listen_address, site.port
        log.info("Status page at http://%s:%d/", _bracketed(settings.listen_address), site.port)
        await self._changed.wait()
        self.address = None
        await site.stop()

    async def _bound(self, runner: web.AppRunner, settings: WebAppSettings) -> web.TCPSite | None:
        """The open port, tried until it opens; None when the settings changed meanwhile."""
        backoff = Backoff()
        while not self._changed.is_set():
            site = web.TCPSite(runner, settings.listen_address, settings.port)
            try:
                await site.start()
            except (OSError, UnicodeError) as error:  # The latter by some host names.
                pause = backoff.failed()
                await site.stop()
                _log_refusal(settings, error, backoff.failures)
            else:
                return site
            await self._changed_within(pause)
        return None

    async def _changed_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return


def _log_refusal(settings: WebAppSettings, error: Exception, failures: int) -> None:
    # At the 1st, 2nd, 4th, 8th ... failure, so that the log does not fill.
    if failures & (failures - 1) == 0:
        log.error(
            "The status page cannot listen at %s:%d, trying again: %s. Choose another webapp.port "
            "or webapp.listen_address, or start the launcher with --no-webapp; requests are "
            "served meanwhile",
            _bracketed(settings.listen_address),
            settings.port,
            getattr(error, "strerror", None) or describe(error),
        )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _protocol_log() -> logging.Logger:
    # Otherwise each probe of a network scanner leaves a traceback.
    protocol = log.getChild("protocol")
    if protocol.level == logging.NOTSET:
        protocol.setLevel(logging.CRITICAL)
    return protocol
