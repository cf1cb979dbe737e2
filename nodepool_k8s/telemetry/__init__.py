"""Metrics and traces: Prometheus, statsd and OpenTelemetry. Counts and times; decides nothing.

The only package that imports the three client libraries: statsd and OpenTelemetry only
when the environment asks for them.
"""

from nodepool_k8s.telemetry.events import (
    LaunchFigures,
    ZooKeeperFigures,
    api_called,
    claim_conflicted,
    leak_deleted,
    loop_lagged,
    node_deleted,
    nodes_assigned,
    relisted,
    request_answered,
    request_claimed,
    request_ended,
    request_gone,
    start,
    statsd_server,
    stop,
    watch_opened,
)
from nodepool_k8s.telemetry.metrics import CONTENT_TYPE, forget, observe, render
from nodepool_k8s.telemetry.statsd import Statsd, launcher_gauges, limit_gauges, record_gauges

__all__ = [
    "CONTENT_TYPE",
    "LaunchFigures",
    "Statsd",
    "ZooKeeperFigures",
    "api_called",
    "claim_conflicted",
    "forget",
    "launcher_gauges",
    "leak_deleted",
    "limit_gauges",
    "loop_lagged",
    "node_deleted",
    "nodes_assigned",
    "observe",
    "record_gauges",
    "relisted",
    "render",
    "request_answered",
    "request_claimed",
    "request_ended",
    "request_gone",
    "start",
    "statsd_server",
    "stop",
    "watch_opened",
]
