"""Every error that this package raises.

The two adapters translate the errors of their client libraries into these at
their border, with the original chained; nothing else of this package sees an
exception of kazoo, aiohttp or the Kubernetes client.
"""

from __future__ import annotations

from dataclasses import dataclass


class NodepoolK8sError(Exception):
    """The base class: an error whose text tells an admin what is wrong and what to do."""


# --- configuration ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem in a configuration file.

    ``line`` is 1-based, and None if the problem has no line; ``path`` reads like
    ``providers[0].pools[1].labels[0].memory``.
    """

    file: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(NodepoolK8sError):
    """A configuration that cannot be used, with all of its problems."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


# --- records -----------------------------------------------------------------------


class MalformedRecord(NodepoolK8sError):
    """A znode that is not JSON, or lacks a required key."""


# --- ZooKeeper -----------------------------------------------------------------------


class ZooKeeperError(NodepoolK8sError):
    """ZooKeeper refused an operation, or could not be reached."""


class ConnectionLost(ZooKeeperError):
    """The connection was lost: the operation may or may not have been applied."""


class SessionLost(ConnectionLost):
    """The session has ended, and every lock that it held is released."""


class Conflict(ZooKeeperError):
    """A transaction was not applied because something that it checked has changed."""


class Vanished(Conflict):
    """A znode that the operation needs does not exist."""


class AlreadyExists(Conflict):
    """A znode that the operation would create already exists."""


class Held(Conflict):
    """Another session holds or contends for the lock."""


class NotHeld(Conflict):
    """We no longer hold the record's lock, so what we read may be outdated."""


class Outdated(Conflict):
    """A znode's version differs from the one that was read."""


# --- Kubernetes ---------------------------------------------------------------------


class DriverError(NodepoolK8sError):
    """A driver's backend refused an operation, or could not be reached."""


class KubernetesError(DriverError):
    """The cluster refused an operation, or could not be reached."""


class ClusterUnreachable(KubernetesError):
    """No response from the API server: the operation may or may not have been applied."""


class ApiError(KubernetesError):
    """An error response of the API server.

    ``status`` is the HTTP status; ``reason`` and ``message`` come from the
    Status object; ``retry_after`` is in seconds, or None if the server sent none.
    """

    def __init__(
        self, status: int, reason: str, message: str, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{status} {reason}: {message}" if message else f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class MalformedAnswer(KubernetesError):
    """A response of the API server that cannot be parsed, or lacks a required field."""


class NotFound(ApiError):
    """404: the object does not exist."""


class MissingRights(KubernetesError):
    """The launcher's own account lacks rights; the text names them and the manifest."""


class SourceUnusable(KubernetesError):
    """A Secret or ConfigMap to copy to a node does not exist or cannot be used."""


class CommandError(KubernetesError):
    """A command in a pod could not be run, or its exit status is unknown."""


class CommandNotStarted(CommandError):
    """The container has no such command, or cannot start it."""


# --- the web server ------------------------------------------------------------------


class BadQuery(NodepoolK8sError):
    """An invalid query string in a URL; the text says what was expected."""


# --- launching -----------------------------------------------------------------------


class LaunchError(NodepoolK8sError):
    """A node could not be launched in any of its attempts.

    ``failure`` is the kind of failure, for metrics: one of ``drivers.outcomes.Failure``.
    """

    def __init__(self, reason: str, *, failure: str = "unknown") -> None:
        super().__init__(reason)
        self.failure = failure


def describe(error: BaseException) -> str:
    """Format an error for a person: its text, or its class name if it has no text."""
    if isinstance(error, TimeoutError) and not str(error):
        return "timed out"
    return str(error) or type(error).__name__
