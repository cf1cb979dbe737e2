"""Deletes the objects of one node: its pods first, then the namespace."""

from __future__ import annotations

import math

from nodepool_k8s.aio import gather_all
from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.fetching import ObjectReader
from nodepool_k8s.kubernetes.reflector import ObjectCache
from nodepool_k8s.kubernetes.retrying import RetryingClient, path_in
from nodepool_k8s.manifests import DEPLOYMENT_LABEL

RECHECK_SECONDS = 30.0
"""How long the cache is trusted, during a deletion, before the API server is asked."""
LAG_SECONDS = 1.0
"""How long to wait for an event where the cache shows less than the API server has."""


class NodeDeleter:
    """Deletes what one deployment has in a cluster. Everything raises KubernetesError."""

    def __init__(
        self, client: ApiClient, reader: ObjectReader, cache: ObjectCache, deployment: str
    ) -> None:
        self._calls = RetryingClient(client)
        self._reader = reader
        self._cache = cache
        self._deployment = deployment

    async def delete_node(self, namespace: str, grace: float) -> None:
        """Delete a node's pods and then its namespace; what is gone already is fine.

        ``grace`` caps the pods' own grace period. A namespace that is not ours is left
        alone. Returns when the deletion of the namespace was accepted: nothing new can
        be created in it any more.
        """
        present = self._cache.namespace(namespace) or await self._reader.get_namespace(namespace)
        if present is None or present.labels.get(DEPLOYMENT_LABEL) != self._deployment:
            return
        await self._delete_pods(namespace, grace)
        await self._calls.delete(path_in(namespace), {"preconditions": {"uid": present.uid}})

    async def pods_gone(self, namespace: str) -> None:
        """Wait until no pod is left in a namespace whose deletion was accepted.

        The cache says when to look, the API server has the last word: the cache may
        not have shown yet a pod that was created just before.
        """
        while True:
            while self._cache.pods(namespace):
                if not await self._cache.changed(namespace, RECHECK_SECONDS):
                    break
            if not await self._reader.has_pods(namespace):
                return
            if not self._cache.pods(namespace):
                await self._cache.changed(namespace, LAG_SECONDS)

    async def namespace_gone(self, namespace: str) -> None:
        """Wait until a namespace whose deletion was accepted is gone with all that was in it."""
        while True:
            while self._cache.namespace(namespace) is not None:
                if not await self._cache.changed(namespace, RECHECK_SECONDS):
                    break
            present = await self._reader.get_namespace(namespace)
            if present is None or present.labels.get(DEPLOYMENT_LABEL) != self._deployment:
                return
            if self._cache.namespace(namespace) is None:
                await self._cache.changed(namespace, LAG_SECONDS)

    async def _delete_pods(self, namespace: str, cap: float) -> None:
        """With a grace of whole seconds, never 0: that would hide containers that still run."""
        seconds = max(1, math.ceil(cap))
        pods = self._cache.pods(namespace)
        if pods:
            await gather_all(
                [
                    self._calls.delete(
                        path_in(namespace, "pods", pod.name),
                        {"gracePeriodSeconds": max(1, min(seconds, pod.grace))},
                    )
                    for pod in pods
                ]
            )
        else:
            # A pod that the cache lacks, or one that the requestor created: ask the server.
            await self._calls.delete(path_in(namespace, "pods"), {"gracePeriodSeconds": seconds})
