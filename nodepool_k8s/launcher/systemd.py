"""Notifies systemd, when it started the launcher with Type=notify.

Own code, because it is one datagram in a documented form: sdnotify, the package for it, has
had no release since 2017 and hides its errors; systemd-python and cysystemd need a C compiler
and libsystemd where the launcher is installed.

A timer of the event loop feeds the watchdog, so that systemd restarts a launcher whose loop
is stuck. An outage of ZooKeeper or a cluster does not stop the timer: a restart would not help.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager

log = logging.getLogger(__name__)

STATUS_SECONDS = 5.0
"""How often the status text is made; it is sent when it has changed."""

STATUS_LENGTH = 500


class SystemdNotifier:
    """Sends READY, RELOADING, STOPPING, STATUS and WATCHDOG; nothing without NOTIFY_SOCKET."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        """Take the variables out of the environment, so that child processes don't inherit them."""
        environ = os.environ if environ is None else environ
        self._address = environ.pop("NOTIFY_SOCKET", "")
        self._watchdog = _watchdog_seconds(environ)
        self._status = ""
        self._socket: socket.socket | None = None
        if self._address and self._address[0] not in "/@":
            log.warning("NOTIFY_SOCKET is not a valid address; systemd is not notified")
            self._address = ""

    @property
    def listened_to(self) -> bool:
        """Whether systemd wants to be notified."""
        return bool(self._address)

    # --- notifications -----------------------------------------------------------------------

    def ready(self) -> None:
        """The launcher serves requests."""
        self._send("READY=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Send RELOADING before a reload, and READY after it, failed or not."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self._send("READY=1")

    def stopping(self, seconds: float) -> None:
        """The launcher stops, and needs at most that many seconds."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        line = " ".join(text.split())[:STATUS_LENGTH]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    # --- periodically ------------------------------------------------------------------------

    async def keep(self, status: Callable[[], str]) -> None:
        """Send the status when it changes, and feed the watchdog twice as often as it requires."""
        pause = min(STATUS_SECONDS, self._watchdog / 2) if self._watchdog else STATUS_SECONDS
        while self._address:
            if self._watchdog:
                self._send("WATCHDOG=1")
            self.status(status())
            await asyncio.sleep(pause)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._address = None, ""

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # An address that begins with @ is in the abstract namespace, where that is a zero.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(text.encode(), address)
        except OSError as error:
            log.warning("Notifying systemd of %s failed: %s", text.partition("\n")[0], error)


def _watchdog_seconds(environ: MutableMapping[str, str]) -> float:
    """How long the watchdog waits; 0 without one, or where it watches another process."""
    micros, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not micros.isdecimal() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(micros) / 1_000_000
