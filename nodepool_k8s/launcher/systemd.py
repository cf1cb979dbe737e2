"""What systemd is told, when it started us with Type=notify.

By hand: it is one datagram in a documented form. sdnotify, the package for it, has had no
release since 2017 and hides its errors; systemd-python and cysystemd need a C compiler and
libsystemd where the launcher is installed.

The watchdog is fed by a timer of the event loop, so it goes hungry when the loop is stuck or
starved, which a restart mends. That ZooKeeper or a cluster is away is no reason to be
killed: a restart brings neither back.
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
"""How often the status text is looked at; it is sent when it has changed."""

STATUS_LENGTH = 500


class SystemdNotifier:
    """Says READY, RELOADING, STOPPING, STATUS and WATCHDOG; nothing where nobody listens."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        """Take the variables out of the environment: programs that we start are not us."""
        environ = os.environ if environ is None else environ
        self._address = environ.pop("NOTIFY_SOCKET", "")
        self._watchdog = _watchdog_seconds(environ)
        self._status = ""
        self._socket: socket.socket | None = None
        if self._address and self._address[0] not in "/@":
            log.warning("NOTIFY_SOCKET is not understood, systemd is told nothing")
            self._address = ""

    @property
    def listened_to(self) -> bool:
        """Whether anybody asked to be told."""
        return bool(self._address)

    # --- what there is to say ----------------------------------------------------------------

    def ready(self) -> None:
        """We serve."""
        self._send("READY=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Around a reload: RELOADING before, READY after, whatever came of it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self._send("READY=1")

    def stopping(self, seconds: float) -> None:
        """We stop, and ask for the time that it may take."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def status(self, text: str) -> None:
        """What we do, in a line for ``systemctl status``."""
        line = " ".join(text.split())[:STATUS_LENGTH]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    # --- by the clock ------------------------------------------------------------------------

    async def keep(self, status: Callable[[], str]) -> None:
        """Tell the status as it changes, and feed the watchdog twice as often as it asks."""
        pause = min(STATUS_SECONDS, self._watchdog / 2) if self._watchdog else STATUS_SECONDS
        while self._address:
            if self._watchdog:
                self._send("WATCHDOG=1")
            self.status(status())
            await asyncio.sleep(pause)

    def close(self) -> None:
        """Let go of the socket."""
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
            log.warning("systemd could not be told %s: %s", text.partition("\n")[0], error)


def _watchdog_seconds(environ: MutableMapping[str, str]) -> float:
    """How long we may be silent; 0 for as long as we like, or where another process is meant."""
    micros, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not micros.isdecimal() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(micros) / 1_000_000
