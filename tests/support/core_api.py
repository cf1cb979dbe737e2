"""The API server through the Kubernetes client library, for tests without an event loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from cluster import LocalCluster
from kubernetes import client, config

PATIENCE_S = 60.0


@contextlib.contextmanager
def core(cluster: LocalCluster) -> Iterator[Any]:
    """The core API as the cluster's admin."""
    api = config.new_client_from_config(str(cluster.kubeconfig), cluster.context)
    with api:
        yield client.CoreV1Api(api)


def until(condition: Callable[[], Any]) -> Any:
    """The first true answer of ``condition``; fails after some seconds."""
    deadline = time.monotonic() + PATIENCE_S
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not after {PATIENCE_S} s"
        time.sleep(0.05)
    return result
