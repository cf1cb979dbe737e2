"""Every error that this package raises.

The two adapters translate the errors of their client libraries into these at
their border, with the original chained; nothing else of this package sees an
exception of kazoo, aiohttp or the Kubernetes client.
"""

from __future__ import annotations

from dataclasses import dataclass


class NodepoolK8sError(Exception):
    """The root: an error whose text tells an admin what is wrong and what to do."""


# --- configuration ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration file.

    ``line`` is 1-based and None where no line can be named; ``path`` reads like
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
    """A configuration that cannot be used, with everything that is wrong in it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


# --- records -----------------------------------------------------------------------


class MalformedRecord(NodepoolK8sError):
    """A znode that is not JSON, or lacks what a record of its kind must have."""


# --- ZooKeeper -----------------------------------------------------------------------


class ZooKeeperError(NodepoolK8sError):
    """ZooKeeper refused something, or could not be asked."""


class ConnectionLost(ZooKeeperError):
    """The connection broke: what was asked may or may not have happened."""


class SessionLost(ConnectionLost):
    """The session is over: every lock it held belongs to nobody now."""


class Conflict(ZooKeeperError):
    """A transaction did not apply, because something it checked had changed."""


class Vanished(Conflict):
    """A znode that the operation needs is not there."""


class AlreadyExists(Conflict):
    """A znode that the operation would create is there already."""


class Held(Conflict):
    """A lock is held, or contended for, by somebody else."""


class NotHeld(Conflict):
    """A record's lock is not ours any more: whatever we know of it is somebody else's."""


class Outdated(Conflict):
    """A znode has another version than the one that was read."""


# --- Kubernetes ---------------------------------------------------------------------


class DriverError(NodepoolK8sError):
    """What a driver's backend refused, or could not be asked."""


class KubernetesError(DriverError):
    """The cluster refused something, or could not be asked."""


class ClusterUnreachable(KubernetesError):
    """No answer from the API server: what was asked may or may not have happened."""


class ApiError(KubernetesError):
    """An answer of the API server that is not a success.

    ``status`` is the HTTP status; ``reason`` and ``message`` come from the
    Status object; ``retry_after`` is in seconds, None where the server named none.
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
    """An answer of the API server that is none, or lacks what such an answer must have."""


class NotFound(ApiError):
    """404: the object is not there."""


class MissingRights(KubernetesError):
    """The launcher's own account lacks rights; the text names them and the manifest."""


class SourceUnusable(KubernetesError):
    """A Secret or ConfigMap that a node needs a copy of is not there, or not what it must be."""


class CommandError(KubernetesError):
    """A command in a pod could not be run, or nobody knows how it ended."""


class CommandNotStarted(CommandError):
    """The container has no such command, or it cannot be started there."""


# --- the web server ------------------------------------------------------------------


class BadQuery(NodepoolK8sError):
    """A URL's query that cannot be answered; the text says what was expected."""


# --- launching -----------------------------------------------------------------------


class LaunchError(NodepoolK8sError):
    """A node could not be launched, by any of its attempts.

    ``failure`` is the kind of failure, for figures: one of ``drivers.outcomes.Failure``.
    """

    def __init__(self, reason: str, *, failure: str = "unknown") -> None:
        super().__init__(reason)
        self.failure = failure


def describe(error: BaseException) -> str:
    """Format an error for a person: its text, or its kind where it has no text."""
    if isinstance(error, TimeoutError) and not str(error):
        return "timed out"
    return str(error) or type(error).__name__
