"""Events of the launcher: each is counted, sent to statsd and traced here.

Callers name the event and know none of the three. An event costs some microseconds, and
never raises or waits.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from nodepool_k8s.config.settings import Pool
from nodepool_k8s.drivers.outcomes import Failure
from nodepool_k8s.errors import LaunchError, SessionLost, describe
from nodepool_k8s.model import NodeRequest, RequestState
from nodepool_k8s.telemetry import metrics, statsd, tracing

_statsd: statsd.Statsd | None = None

_STATSD_RESULTS = {
    Failure.QUOTA: "error.quota",
    Failure.SESSION: "error.zksession",
    Failure.API: "error.unknown",
    Failure.SOURCE: "error.unknown",
    Failure.REFUSED: "error.unknown",
    Failure.UNKNOWN: "error.unknown",
}
_POD_NOT_READY = "error.nodepool"
"""Nodepool's result for a pod that did not become ready, for any reason."""

ANSWERS = {RequestState.FULFILLED: "fulfilled", RequestState.FAILED: "failed"}


# --- the whole -------------------------------------------------------------------------------


def start(environ: Mapping[str, str] = os.environ) -> None:
    """Start statsd and tracing as the environment says. Raises BadEnvironment."""
    global _statsd
    address = statsd.address(environ)
    tracing.start(environ)
    _statsd = statsd.Statsd(address) if address else None


async def stop() -> None:
    """Send what is left, and stop."""
    global _statsd
    if _statsd is not None:
        _statsd.close()
        _statsd = None
    await asyncio.to_thread(tracing.stop)


def statsd_server() -> statsd.Statsd | None:
    """The statsd server, where one is configured."""
    return _statsd


# --- requests --------------------------------------------------------------------------------


def request_claimed(request: NodeRequest, pool: Pool) -> None:
    """This task has claimed the request and fulfils it."""
    tracing.request_begins(request, pool.provider, pool.name)


def request_answered(request: NodeRequest, pool: Pool) -> None:
    """A request was written; if it is fulfilled or failed now, its wait is observed.

    Requests for spare nodes don't count: they are the launchers' own.
    """
    outcome = ANSWERS.get(request.state)
    if outcome and request.created_time is not None and not request.for_spare:
        waited = max(0.0, request.state_time - request.created_time)
        metrics.REQUEST_WAIT.labels(pool.provider, pool.name, outcome).observe(waited)


def request_ended(request: NodeRequest, pool: Pool, reason: str = "") -> None:
    """This task's request was written in this state; with a ``reason`` it was not fulfilled."""
    request_answered(request, pool)
    tracing.request_ends(ANSWERS.get(request.state, "returned"), reason)


def request_gone(reason: str) -> None:
    """The requestor removed this task's request."""
    tracing.request_ends("gone", reason)


def claim_conflicted(pool: Pool) -> None:
    """A claim failed because another launcher was first, or the request had changed."""
    metrics.CLAIM_CONFLICTS.labels(pool.provider, pool.name).inc()


def nodes_assigned(request: NodeRequest, pool: Pool, launched: Iterable[bool]) -> None:
    """The request's nodes were handed over: which were launched for it, in its order."""
    if not request.for_spare:
        for label, is_new in zip(request.node_types, launched, strict=True):
            source = "launched" if is_new else "reused"
            metrics.NODES_ASSIGNED.labels(pool.provider, pool.name, label, source).inc()


# --- launches --------------------------------------------------------------------------------


class LaunchFigures:
    """Counts and times one node's launch, and each of its attempts."""

    def __init__(self, request: NodeRequest, pool: Pool, label: str, node: str) -> None:
        self._where = (pool.provider, pool.name, label)
        self._requestor = request.requestor
        self._began = self._attempt_began = 0.0
        self._attempts = 0
        self._trace = tracing.LaunchTrace(
            {
                "nodepool.provider": pool.provider,
                "nodepool.pool": pool.name,
                "nodepool.label": label,
                "nodepool.node": node,
            }
        )

    @contextmanager
    def launching(self) -> Iterator[None]:
        """The launch lasts as long as the context."""
        self._began = time.monotonic()
        self._trace.begins()
        try:
            yield
        except LaunchError as error:
            self._failed(error.failure, str(error))
            raise
        except SessionLost as error:
            self._failed(Failure.SESSION, str(error))
            raise
        except BaseException as error:
            self._trace.ends("abandoned", describe(error))
            raise

    def attempt_begins(self) -> None:
        """An attempt begins."""
        self._attempts += 1
        self._attempt_began = time.monotonic()
        metrics.LAUNCH_ATTEMPTS.labels(*self._where).inc()

    def attempt_failed(self, failure: Failure, reason: str, steps: Mapping[str, float]) -> None:
        """The attempt failed, after these steps (seconds each)."""
        metrics.LAUNCH_FAILURES.labels(*self._where, failure).inc()
        seconds = time.monotonic() - self._attempt_began
        self._trace.attempted(self._attempts, seconds, steps, reason)

    def ready(self, steps: Mapping[str, float]) -> None:
        """The node is ready, after these steps of the last attempt."""
        now = time.monotonic()
        provider, _, label = self._where
        for step, seconds in steps.items():
            metrics.LAUNCH.labels(provider, label, step).observe(seconds)
        metrics.LAUNCH.labels(provider, label, "total").observe(now - self._began)
        self._trace.attempted(self._attempts, now - self._attempt_began, steps)
        self._trace.ends("ready")
        self._send("ready", now - self._began)

    def _failed(self, failure: str, reason: str) -> None:
        self._trace.ends(failure, reason)
        result = _STATSD_RESULTS.get(Failure(failure), _POD_NOT_READY)
        self._send(result, time.monotonic() - self._began)

    def _send(self, result: str, seconds: float) -> None:
        if _statsd is not None:
            _statsd.launched(self._where[0], self._requestor, result, seconds)


# --- removals --------------------------------------------------------------------------------


def node_deleted(provider: str, seconds: float) -> None:
    """A node's record is gone."""
    metrics.DELETION.labels(provider).observe(seconds)


def leak_deleted(provider: str) -> None:
    """A namespace was deleted that no record named."""
    metrics.LEAKED.labels(provider).inc()
    if _statsd is not None:
        _statsd.incr(statsd.leaked_key(provider))


# --- the servers -----------------------------------------------------------------------------


def api_called(provider: str, verb: str, path: str, status: int | None, seconds: float) -> None:
    """The API server answered (None: did not) a call of that HTTP method to that path."""
    kind, resource = verb_and_resource(verb, path)
    code = "error" if status is None else f"{status // 100}xx"
    metrics.API_REQUEST.labels(provider, kind, resource, code).observe(seconds)


def watch_opened(provider: str, path: str) -> None:
    """A watch was opened."""
    metrics.WATCHES.labels(provider, verb_and_resource("GET", path)[1]).inc()


def relisted(provider: str, path: str) -> None:
    """A watch begins with a listing of everything."""
    metrics.RELISTS.labels(provider, verb_and_resource("GET", path)[1]).inc()


_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}
_ON_ALL = {"get": "list", "delete": "deletecollection"}


def verb_and_resource(method: str, path: str) -> tuple[str, str]:
    """Kubernetes' verb, and the resource with its subresource: never a name.

    ``/api/v1/namespaces/a/pods/b`` is ``pods``, ``.../serviceaccounts/c/token`` is
    ``serviceaccounts/token``; what is no resource (``/version``) is ``other``.
    """
    verb = _VERBS.get(method, "other")
    parts = path.split("/")
    rest = parts[3:] if parts[1] == "api" else parts[4:] if parts[1] == "apis" else []
    if not rest:
        return verb, "other"
    if rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    if len(rest) == 1:
        return _ON_ALL.get(verb, verb), rest[0]
    return verb, rest[0] if len(rest) == 2 else f"{rest[0]}/{rest[2]}"


class ZooKeeperFigures:
    """Counts what a ZooKeeper client reports; its ``ZooKeeperObserver``."""

    def answered(self, operation: str, seconds: float) -> None:
        """Time an operation that was answered, or whose connection broke."""
        metrics.ZOOKEEPER.labels(operation).observe(seconds)

    def connection_changed(self, connected: bool) -> None:
        """Show whether there is a connection."""
        metrics.ZOOKEEPER_CONNECTED.set(connected)

    def session_lost(self) -> None:
        """Count a session that ended although the client was not closed."""
        metrics.ZOOKEEPER_LOST.inc()


def loop_lagged(seconds: float) -> None:
    """The event loop woke a timer that many seconds late."""
    metrics.LOOP_LAG.observe(max(0.0, seconds))
