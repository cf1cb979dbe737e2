"""Calls that are retried for a few seconds where they fail for transient reasons; paths."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from nodepool_k8s.backoff import Backoff
from nodepool_k8s.errors import ApiError, KubernetesError
from nodepool_k8s.kubernetes.client import JSON, ApiClient, Object, Query
from nodepool_k8s.kubernetes.refusals import ALREADY_EXISTS, Meaning, judge

log = logging.getLogger(__name__)

TRIES = 6
"""How often a call that fails for transient reasons is tried, within about six seconds."""

NAMESPACES = "/api/v1/namespaces"

T = TypeVar("T")


class RetryingClient:
    """An API client's calls, with retries."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def get(self, path: str, query: Query | None = None, accept: str = JSON) -> Object:
        """Read an object or a list."""
        return await _persist(lambda: self._client.get(path, query, accept))

    async def post(self, path: str, body: Mapping[str, Any]) -> Object:
        """Create an object."""
        return await _persist(lambda: self._client.post(path, body))

    async def patch(self, path: str, body: Mapping[str, Any]) -> Object:
        """Change an object by a merge patch."""
        return await _persist(lambda: self._client.patch(path, body))

    async def delete(self, path: str, options: Mapping[str, Any]) -> None:
        """Delete an object, or a collection, if it exists."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        try:
            await _persist(lambda: self._client.delete(path, body))
        except ApiError as error:
            # 409: another object has the name, or the namespace is Terminating already.
            if error.status not in (404, 409):
                raise

    async def ensure(self, path: str, manifest: Mapping[str, Any]) -> None:
        """Create it in a node's namespace, if neither we nor a controller did so before."""
        try:
            await self.post(path, manifest)
        except ApiError as error:
            if not already_exists(error):
                raise


async def _persist(call: Callable[[], Awaitable[T]]) -> T:
    backoff = Backoff()
    while True:
        try:
            return await call()
        except KubernetesError as error:
            verdict = judge(error)
            if verdict.meaning is not Meaning.TRANSIENT or already_exists(error):
                raise
            if backoff.failures == TRIES - 1:
                raise
            pause = backoff.failed(verdict.retry_after)
            log.debug("Trying again in %.1f s: %s", pause, error)
        await asyncio.sleep(pause)


def already_exists(error: KubernetesError) -> bool:
    """Whether an object of that name exists."""
    return isinstance(error, ApiError) and error.reason == ALREADY_EXISTS


def path_in(namespace: str, *parts: str, group: str = "") -> str:
    """The path of a namespace, or of objects in it."""
    root = f"/apis/{group}/v1" if group else "/api/v1"
    return "/".join((root, "namespaces", namespace, *parts))
