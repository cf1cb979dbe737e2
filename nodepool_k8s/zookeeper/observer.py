"""What a ZooKeeper client reports about itself to the program that built it."""

from __future__ import annotations

from typing import Protocol


class ZooKeeperObserver(Protocol):
    """Counts what happens on a connection. Called on the event loop; must not block or raise."""

    def answered(self, operation: str, seconds: float) -> None:
        """An operation was answered, or its connection broke, after that many seconds."""

    def connection_changed(self, connected: bool) -> None:
        """The connection was made or lost."""

    def session_lost(self) -> None:
        """The session ended although the client was not closed."""


class SilentObserver:
    """Ignores everything: the default, for programs that count nothing."""

    def answered(self, operation: str, seconds: float) -> None:
        """Ignore it."""

    def connection_changed(self, connected: bool) -> None:
        """Ignore it."""

    def session_lost(self) -> None:
        """Ignore it."""
