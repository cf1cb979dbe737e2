"""statsd, under Nodepool's names, when STATSD_HOST is set.

UDP: a server that is down disturbs nothing and is not noticed. The gauges' names and values
are defined here; ``launcher/metrics_reports.py`` sends them, those about ZooKeeper's records
from one launcher of all that share them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nodepool_k8s.config.settings import Settings
from nodepool_k8s.errors import NodepoolK8sError
from nodepool_k8s.model import INSTANCES, Component, NodeState, whole_units
from nodepool_k8s.snapshot import NodeGroup, RecordCounts

if TYPE_CHECKING:
    from statsd import StatsClient

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 8125
RESOLVE_AFTER: Final = 300.0
"""Seconds after which the server's name is resolved again, because it may have moved."""

Gauges = Iterator[tuple[str, float]]


class BadEnvironment(NodepoolK8sError):
    """An environment variable that cannot be used."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the statsd server is."""

    host: str
    port: int = DEFAULT_PORT


def address(environ: Mapping[str, str]) -> Address | None:
    """By STATSD_HOST and STATSD_PORT; None: no statsd. Raises BadEnvironment."""
    host = environ.get("STATSD_HOST", "").strip().removeprefix("[").removesuffix("]")
    if not host:
        return None
    text = environ.get("STATSD_PORT", "").strip() or str(DEFAULT_PORT)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise BadEnvironment(
            f"STATSD_PORT is {text!r}; it has to be a port, a number from 1 to 65535. Correct "
            f"it, or leave it out for {DEFAULT_PORT}"
        )
    return Address(host, int(text))


class Statsd:
    """Sends to one server; nothing until ``resolve`` has found its address."""

    def __init__(self, server: Address) -> None:
        self._server = server
        self._client: StatsClient | None = None
        self._resolved = 0.0
        self._failed = False

    async def resolve(self) -> None:
        """Resolve the server's name, unless that was done recently; never fails."""
        now = time.monotonic()
        if self._client is not None and now < self._resolved + RESOLVE_AFTER:
            return
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                self._server.host, self._server.port, type=socket.SOCK_DGRAM
            )
            self._connect(found[0][0], str(found[0][4][0]))
        except (OSError, UnicodeError) as error:
            if not self._failed:
                log.warning("STATSD_HOST %s cannot be resolved: %s", self._server.host, error)
            self._failed = True
            return
        self._resolved, self._failed = now, False

    def _connect(self, family: int, host: str) -> None:
        from statsd import StatsClient

        before, self._client = (
            self._client,
            StatsClient(host, self._server.port, ipv6=family == socket.AF_INET6),
        )
        if before is not None:
            before.close()

    def gauges(self, gauges: Iterable[tuple[str, float]]) -> None:
        """Send the gauges, many to a packet."""
        if self._client is not None:
            with self._client.pipeline() as pipeline:
                for key, value in gauges:
                    pipeline.gauge(key, value)

    def incr(self, key: str) -> None:
        """Count one."""
        if self._client is not None:
            self._client.incr(key)

    def launched(self, provider: str, requestor: str, result: str, seconds: float) -> None:
        """Count a launch and its time: ``ready``, or ``error.`` and why."""
        if self._client is not None:
            with self._client.pipeline() as pipeline:
                for key in launch_keys(provider, requestor, result):
                    pipeline.timing(key, int(seconds * 1000))
                    pipeline.incr(key)

    def close(self) -> None:
        """Send nothing more."""
        if self._client is not None:
            self._client.close()
        self._client = None


# --- the keys --------------------------------------------------------------------------------

_UNSAFE = re.compile(r"[^A-Za-z0-9_/+=~-]")


def part(name: str) -> str:
    """A name as one part of a key: no dot, colon or bar, which mean something to statsd."""
    return _UNSAFE.sub("_", name)


def launch_keys(provider: str, requestor: str, result: str) -> list[str]:
    """Every key that a launch is counted under; Nodepool's, whose nodes have no zone here."""
    keys = [f"nodepool.launch.provider.{part(provider)}.{result}", f"nodepool.launch.{result}"]
    if requestor:
        keys.append(f"nodepool.launch.requestor.{part(requestor)}.{result}")
    return keys


def leaked_key(provider: str) -> str:
    """The counter of leaked nodes that were removed."""
    return f"nodepool.provider.{part(provider)}.leaked.nodes"


def record_gauges(records: RecordCounts) -> Gauges:
    """About all records in ZooKeeper, every launcher's: one launcher sends them."""
    yield from _node_gauges(records)
    for component in records.components:
        if component.provider_name and component.pool:
            provider, pool = part(component.provider_name), part(component.pool)
            yield (
                f"nodepool.provider.{provider}.pool.{pool}.addressable_requests",
                _addressable(records, component),
            )


def _addressable(records: RecordCounts, component: Component) -> int:
    return sum(
        count
        for group, count in records.requests.items()
        if component.supported_labels.issuperset(group.labels)
    )


def _node_gauges(records: RecordCounts) -> Gauges:
    labels = {name for component in records.components for name in component.supported_labels}
    providers = {each.provider_name for each in records.components if each.provider_name}
    counts: Counter[str] = Counter()
    for kind in NodeState:
        # Zeros are sent, too: a gauge keeps its last value.
        counts[f"nodepool.nodes.{kind}"] = 0
        counts.update({f"nodepool.label.{part(name)}.nodes.{kind}": 0 for name in labels})
        counts.update({f"nodepool.provider.{part(name)}.nodes.{kind}": 0 for name in providers})
    for group, count in records.nodes.items():
        for key in _node_keys(group):
            counts[key] += count
    yield from counts.items()


def _node_keys(group: NodeGroup) -> Iterator[str]:
    yield f"nodepool.nodes.{group.state}"
    for label in group.labels:
        yield f"nodepool.label.{part(label)}.nodes.{group.state}"
    if group.provider:
        yield f"nodepool.provider.{part(group.provider)}.nodes.{group.state}"


def limit_gauges(settings: Settings) -> Gauges:
    """The limits of this launcher's own configuration; what is unlimited has none."""
    for provider in settings.providers:
        limits = [0 if p.disabled else p.limits.get(INSTANCES) for p in provider.pools]
        known = [limit for limit in limits if limit is not None]
        if len(known) == len(limits):
            yield f"nodepool.provider.{part(provider.name)}.max_servers", whole_units(sum(known))
    for tenant, amounts in settings.tenant_limits.items():
        for name, milli in amounts.items():
            yield f"nodepool.tenant_limits.{part(tenant)}.{part(name)}", whole_units(milli)


def launcher_gauges(queued: int) -> Gauges:
    """About this process: operations that wait to be sent to ZooKeeper."""
    host = part(socket.gethostname())
    yield f"nodepool.launcher.{host}.zk.client.connection_queue", queued
