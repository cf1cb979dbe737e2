"""What our namespaces and pods look like now, kept up to date by two watches.

Owns the cache of one provider's objects (those that carry the deployment's UUID) and
wakes who waits for a namespace; an event costs the same however many nodes there are.
It changes nothing in the cluster, and decides nothing but what is too broken to read.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from nodepool_k8s import telemetry
from nodepool_k8s.backoff import Backoff
from nodepool_k8s.errors import ApiError, KubernetesError, MalformedAnswer
from nodepool_k8s.kubernetes.client import JSON, METADATA, METADATA_LIST, ApiClient
from nodepool_k8s.kubernetes.parsing import (
    list_items,
    namespace_record,
    optional_integer,
    optional_text,
    parsing,
    pod_record,
    required_text,
)
from nodepool_k8s.kubernetes.responses import loads
from nodepool_k8s.model import EMPTY, Namespace, Pod

log = logging.getLogger(__name__)

PAGE = 500
WATCH_SECONDS = (240, 300)
"""How long the server lets a watch run, spread so that watches don't all end together."""
GONE = 410
RELIST_AFTER_FAILURES = 5
"""After so many failures, list again: etcd may have been restored to an older version."""
SILENCE_SECONDS = 330.0
"""A stream that is silent for longer than the server would keep it open is dead."""


class _Record(Protocol):
    @property
    def uid(self) -> str: ...


R = TypeVar("R", bound=_Record)


@dataclass(frozen=True, slots=True)
class Subscription:
    """Callbacks, called at once with the namespace's name; they must not block."""

    pod_lost: Callable[[str], None]
    """A pod ended, is being removed, or is no longer ready."""
    namespace_appeared: Callable[[str], None]
    namespace_disappeared: Callable[[str], None]
    touch_changed: Callable[[], None] = lambda: None
    """A watch broke, or works again; called without a name."""


class Reflector(Generic[R]):
    """One list and watch: follows one kind of object and reports each change.

    ``changed(before, after)`` is called with the record before (None: it is new) and
    after (None: it is gone).
    """

    def __init__(
        self,
        client: ApiClient,
        path: str,
        selector: str,
        read: Callable[[dict[str, Any]], R],
        changed: Callable[[R | None, R | None], None],
        touch_changed: Callable[[], None],
        *,
        metadata_only: bool,
        by: str = "labelSelector",
    ) -> None:
        self._client = client
        self._path = path
        self._selection = {by: selector}
        self._read = read
        self._changed = changed
        self._touch_changed = touch_changed
        self._list_accept = METADATA_LIST if metadata_only else JSON
        self._watch_accept = METADATA if metadata_only else JSON
        self.records: dict[str, R] = {}
        """By UID: a name can be used again by another object."""
        self.synced = asyncio.Event()
        self.out_of_touch_since: float | None = asyncio.get_running_loop().time()
        self._version = ""
        self._backoff = Backoff()
        self._reported: set[str] = set()

    async def run(self) -> None:
        """Follow until cancelled; failures are logged and retried with back-off."""
        while True:
            retry_after = None
            # Counts as failed until an event arrives: a server that closes each watch at
            # once must not be asked again without a pause.
            pause = self._backoff.failed()
            try:
                await self._follow()
            except KubernetesError as error:
                self._failed(error)
                retry_after = error.retry_after if isinstance(error, ApiError) else None
            if self._backoff.failures:
                await asyncio.sleep(pause + (retry_after or 0.0))

    async def _follow(self) -> None:
        if not self._version:
            await self._relist()
        query: dict[str, str | int] = {
            "watch": "1",
            **self._selection,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": random.randint(*WATCH_SECONDS),
        }
        async with self._client.stream(
            self._path, query, self._watch_accept, SILENCE_SECONDS
        ) as lines:
            self._in_touch()
            async for line in lines:
                self._handle(line)
                self._backoff.reset()

    async def _relist(self) -> None:
        telemetry.relisted(self._client.provider, self._path)
        records: dict[str, R] = {}
        query: dict[str, str | int] = {**self._selection, "limit": PAGE}
        while True:
            page = await self._client.get(self._path, query, self._list_accept)
            with parsing("a list"):
                for raw in list_items(page):
                    record = self._read_or_report(raw)
                    if record is not None:
                        records[record.uid] = record
                version = page["metadata"]["resourceVersion"]
                more = optional_text(page["metadata"], "continue")
            if not more:
                break
            query["continue"] = more
        self._replace(records)
        self._version = version
        self.synced.set()

    def _replace(self, records: dict[str, R]) -> None:
        before, self.records = self.records, records
        for uid, record in before.items():
            if uid not in records:
                self._changed(record, None)
        for uid, record in records.items():
            if before.get(uid) != record:
                self._changed(before.get(uid), record)

    def _handle(self, line: bytes) -> None:
        with parsing("an event"):
            event = loads(line)
            kind, raw = event["type"], event["object"]
            if kind == "ERROR":
                raise _stream_error(raw)
            version = required_text(raw["metadata"]["resourceVersion"])
            record = None if kind == "BOOKMARK" else self._read(raw)
        if record is not None:
            before = self.records.get(record.uid)
            if kind == "DELETED":
                self.records.pop(record.uid, None)
                self._changed(before or record, None)
            else:
                self.records[record.uid] = record
                self._changed(before, record)
        self._version = version

    def _read_or_report(self, raw: Any) -> R | None:
        try:
            return self._read(raw)
        except MalformedAnswer as error:
            shown = str(error)
            if shown not in self._reported:
                self._reported.add(shown)
                log.warning("%s: skipping unreadable object: %s", self._path, error)
            return None

    def _in_touch(self) -> None:
        if self.out_of_touch_since is not None and self._backoff.failures > 1:
            log.info("%s: watching again", self._path)
        self._set_out_of_touch_since(None)

    def _failed(self, error: KubernetesError) -> None:
        gone = isinstance(error, ApiError) and error.status == GONE
        malformed = isinstance(error, MalformedAnswer)
        if gone or malformed or self._backoff.failures % RELIST_AFTER_FAILURES == 0:
            self._version = ""
        if gone:
            log.info("%s: the watch expired, listing again", self._path)
            return
        if self.out_of_touch_since is None:
            self._set_out_of_touch_since(asyncio.get_running_loop().time())
        level = logging.WARNING if self._backoff.failures == 1 else logging.DEBUG
        log.log(level, "%s: watch failed, trying again: %s", self._path, error)

    def _set_out_of_touch_since(self, since: float | None) -> None:
        if since != self.out_of_touch_since:
            self.out_of_touch_since = since
            self._touch_changed()


def _stream_error(status: dict[str, Any]) -> KubernetesError:
    reason = optional_text(status, "reason") or "Unknown"
    return ApiError(optional_integer(status, "code", 500), reason, optional_text(status, "message"))


class ObjectCache:
    """The namespaces and pods of one deployment in one cluster, by namespace name."""

    def __init__(self, client: ApiClient, selector: str) -> None:
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._pods: dict[str, dict[str, Pod]] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._subscriptions: list[Subscription] = []
        self.namespace_stream = Reflector(
            client,
            "/api/v1/namespaces",
            selector,
            namespace_record,
            self._namespace_changed,
            self._touch_changed,
            metadata_only=True,
        )
        self.pod_stream = Reflector(
            client,
            "/api/v1/pods",
            selector,
            pod_record,
            self._pod_changed,
            self._touch_changed,
            metadata_only=False,
        )

    def subscribe(self, subscription: Subscription) -> None:
        """Call these callbacks from now on."""
        self._subscriptions.append(subscription)

    @property
    def in_sync(self) -> bool:
        """Whether both have been listed once."""
        return self.namespace_stream.synced.is_set() and self.pod_stream.synced.is_set()

    async def synced(self) -> None:
        """Wait until both have been listed once."""
        await self.namespace_stream.synced.wait()
        await self.pod_stream.synced.wait()

    @property
    def out_of_touch_since(self) -> float | None:
        """The loop's time since which one of the watches is broken; None when both work."""
        times = [
            stream.out_of_touch_since
            for stream in (self.namespace_stream, self.pod_stream)
            if stream.out_of_touch_since is not None
        ]
        return min(times, default=None)

    def namespaces(self) -> tuple[Namespace, ...]:
        """The deployment's namespaces."""
        return tuple(self._namespaces.values())

    def namespace(self, name: str) -> Namespace | None:
        """The deployment's namespace of that name, if it was seen."""
        return self._namespaces.get(name)

    def pods(self, namespace: str) -> tuple[Pod, ...]:
        """The deployment's pods in a namespace."""
        return tuple(self._pods.get(namespace, EMPTY).values())

    async def changed(self, namespace: str, timeout: float | None) -> bool:
        """Wait for the next change in a namespace; False when ``timeout`` seconds passed.

        What changes after the call counts: look first, then call, with no await between.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(namespace, [])
        waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            return False
        finally:
            waiters.remove(waiter)
            if not waiters and self._waiters.get(namespace) is waiters:
                del self._waiters[namespace]
        return True

    def _touch_changed(self) -> None:
        for subscription in self._subscriptions:
            try:
                subscription.touch_changed()
            except Exception:
                # As in ``_notify``.
                log.exception("Callback for a changed watch failed unexpectedly (bug)")

    def _wake(self, namespace: str) -> None:
        for waiter in self._waiters.get(namespace, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _namespace_changed(self, before: Namespace | None, after: Namespace | None) -> None:
        if before is not None and after is not None and before.name != after.name:
            # Names never change, so the record before was wrong.
            self._namespace_changed(before, None)
            before = None
        record = after or before
        assert record is not None
        if after is not None:
            self._namespaces[record.name] = after
        elif self._is_current(record):
            del self._namespaces[record.name]
        self._wake(record.name)
        for subscription in self._subscriptions:
            if before is None:
                _notify(subscription.namespace_appeared, record.name)
            if after is None:
                _notify(subscription.namespace_disappeared, record.name)

    def _is_current(self, record: Namespace) -> bool:
        current = self._namespaces.get(record.name)
        return current is not None and current.uid == record.uid

    def _pod_changed(self, before: Pod | None, after: Pod | None) -> None:
        if before is not None and after is not None and before.namespace != after.namespace:
            self._pod_changed(before, None)
            before = None
        record = after or before
        assert record is not None
        pods = self._pods.setdefault(record.namespace, {})
        if after is None:
            pods.pop(record.uid, None)
        else:
            pods[record.uid] = after
        if not pods:
            del self._pods[record.namespace]
        self._wake(record.namespace)
        if before is not None and _works(before) and not (after and _works(after)):
            for subscription in self._subscriptions:
                _notify(subscription.pod_lost, record.namespace)


def _notify(callback: Callable[[str], None], namespace: str) -> None:
    try:
        callback(namespace)
    except Exception:
        # A failing callback must not end the watch.
        log.exception("Callback for namespace %s failed unexpectedly (bug)", namespace)


def _works(pod: Pod) -> bool:
    if pod.deleting or pod.phase not in ("Pending", "Running"):
        return False
    if (disrupted := pod.condition("DisruptionTarget")) and disrupted.status == "True":
        return False
    ready = pod.condition("Ready")
    # Not ready yet is not lost: only Running pods lose something by losing it.
    return pod.phase == "Pending" or ready is None or ready.status == "True"
