"""A mirror that shows what a test puts into it."""

from __future__ import annotations

from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

from nodepool_k8s.zookeeper.client import ZooKeeperClient
from nodepool_k8s.zookeeper.mirror import Mirror


def still_mirror() -> Mirror:
    """A connection without events, which reads nothing."""
    client = SimpleNamespace(on_event=lambda callback: None)
    return Mirror(cast(ZooKeeperClient, client), _never)


def _never(_name: str, coroutine: Coroutine[Any, Any, None]) -> Any:
    coroutine.close()
