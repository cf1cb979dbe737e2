"""The Secrets and ConfigMaps that nodes get copies of: each read once, then watched.

Each source has a watch of its own, by its name: it needs rights on that object only, and
nothing else in its namespace is read. The content of a source is never logged or shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from nodepool_k8s.config.settings import CopySource
from nodepool_k8s.errors import (
    ApiError,
    ClusterUnreachable,
    KubernetesError,
    NotFound,
    SourceUnusable,
)
from nodepool_k8s.kubernetes import rights
from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.parsing import optional_text, parsing, required_text
from nodepool_k8s.kubernetes.reflector import Reflector
from nodepool_k8s.manifests import SOURCE_RESOURCES
from nodepool_k8s.model import SourceContent

FIRST_SECONDS = 10.0
"""How long to wait for a source that was never read."""
MEANT_FOR = "nodepool-k8s copies it to each node that asks for it"

Spawn = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Starts a supervised task."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A source as it was read."""

    uid: str
    content: SourceContent = field(repr=False)


class CopiedObjects:
    """What one provider's nodes get copies of."""

    def __init__(self, client: ApiClient, spawn: Spawn) -> None:
        self._client = client
        self._spawn = spawn
        self._closed = False
        self._watches: dict[CopySource, _Watch] = {}
        self._tasks: dict[CopySource, asyncio.Task[None]] = {}

    def want(self, sources: Iterable[CopySource]) -> None:
        """Watch these sources from now on, and no others."""
        wanted = set(sources)
        for source in self._watches.keys() - wanted:
            del self._watches[source]
            self._tasks.pop(source).cancel()
        for source in sorted(wanted - self._watches.keys()):
            self._watch(source)

    async def close(self) -> None:
        """Stop watching, for good."""
        self._closed = True
        tasks = list(self._tasks.values())
        self.want(())
        await asyncio.gather(*tasks, return_exceptions=True)

    async def content(self, source: CopySource) -> SourceContent:
        """Return the content of a source.

        Raises SourceUnusable where it is not there or may not be read, ClusterUnreachable
        where it could not be read yet.
        """
        if self._closed:
            raise ClusterUnreachable("the connection to the cluster is closed")
        # A launch keeps the settings that it began with.
        watch = self._watches.get(source) or self._watch(source)
        found = await watch.found()
        return found.content if found else await self._missed(source)

    async def _missed(self, source: CopySource) -> SourceContent:
        """Ask the API server: the object or the right to read it may be newer than the watch."""
        try:
            return _found(await self._client.get(f"{_collection(source)}/{source.name}")).content
        except NotFound as error:
            raise SourceUnusable(f"{source} does not exist: {MEANT_FOR}") from error
        except ApiError as error:
            if error.status != 403:
                raise
            raise SourceUnusable(
                f"{source} may not be read by the launcher's account: {error}; {rights.COPIES} "
                "is an example of the rights"
            ) from error

    def _watch(self, source: CopySource) -> _Watch:
        watch = self._watches[source] = _Watch(self._client, source)
        name = f"watch {source} for {self._client.provider}"
        self._tasks[source] = self._spawn(name, watch.run())
        return watch


class _Watch(Reflector[_Found]):
    """The watch of one source."""

    def __init__(self, client: ApiClient, source: CopySource) -> None:
        super().__init__(
            client,
            _collection(source),
            f"metadata.name={source.name}",
            _found,
            lambda before, after: None,
            self._touched,
            metadata_only=False,
            by="fieldSelector",
        )
        self._source = source
        self._trouble: KubernetesError | None = None
        self._tried = asyncio.Event()

    async def found(self) -> _Found | None:
        """Wait for the first answer; return the source, None where it is missing or forbidden."""
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                await self._tried.wait()
        except TimeoutError as error:
            raise ClusterUnreachable(f"{self._source} could not be read yet") from error
        if isinstance(self._trouble, ApiError) and self._trouble.status == 403:
            return None
        if self._trouble is not None and not self.synced.is_set():
            raise ClusterUnreachable(f"{self._source} could not be read yet: {self._trouble}")
        # While the watch is broken, use what was read last.
        return next(iter(self.records.values()), None)

    def _touched(self) -> None:
        if self.out_of_touch_since is None:
            self._trouble = None
            self._tried.set()

    def _failed(self, error: KubernetesError) -> None:
        self._trouble = error
        self._tried.set()
        super()._failed(error)


def _collection(source: CopySource) -> str:
    return f"/api/v1/namespaces/{source.namespace}/{SOURCE_RESOURCES[source.kind]}"


def _found(raw: dict[str, Any]) -> _Found:
    with parsing("a source of copies"):
        metadata = raw["metadata"]
        content = SourceContent(
            optional_text(raw, "type"), _entries(raw.get("data")), _entries(raw.get("binaryData"))
        )
        return _Found(required_text(metadata["uid"]), content)


def _entries(raw: object) -> dict[str, str]:
    """Errors never contain an entry's value."""
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise TypeError("its data is not a mapping of texts")
    return dict(raw)
