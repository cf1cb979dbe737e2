"""One provider's cluster: creates a node's objects, watches and deletes them.

Owns the client and the object cache of one provider. It knows nothing of quota, requests or
ZooKeeper, and decides nothing about a node: it reports what exists (``pods``, ``changed``)
and does what it is asked. Calls that fail for transient reasons are retried for a few
seconds; creating an object twice adopts the one that exists.

A launch reads::

    namespace = await cluster.creator.create_namespace(objects)   # its UID goes into the record
    async with asyncio.TaskGroup() as group:
        access = group.create_task(cluster.creator.create_access(objects))
        group.create_task(cluster.creator.create_pod(objects))    # pod labels only
    while not decided(cluster.pods(namespace.name)):
        await cluster.changed(namespace.name, timeout)

``create_pod`` creates what the pod itself needs (its service account, the root CA, copies,
claims, policies) and the pod, with its replicas; ``create_access`` creates what the requestor
needs (``zuul-worker``, its role, its token). Neither waits for the other.

A removal reads::

    await cluster.deleter.delete_node(name, grace)   # pods first, then the namespace
    await cluster.deleter.pods_gone(name)            # or namespace_gone, for what outlives its pods

``cluster.reader`` asks the API server for what a watch may not show yet.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from nodepool_k8s.aio import cancel_all
from nodepool_k8s.config.settings import Provider
from nodepool_k8s.errors import ApiError, KubernetesError
from nodepool_k8s.kubernetes import credentials, rights
from nodepool_k8s.kubernetes.client import METADATA, ApiClient
from nodepool_k8s.kubernetes.copied_objects import CopiedObjects, Spawn
from nodepool_k8s.kubernetes.creating import NodeCreator, RoleKind
from nodepool_k8s.kubernetes.deleting import NodeDeleter
from nodepool_k8s.kubernetes.fetching import ObjectReader
from nodepool_k8s.kubernetes.parsing import namespace_record
from nodepool_k8s.kubernetes.reflector import ObjectCache, Subscription
from nodepool_k8s.kubernetes.retrying import path_in
from nodepool_k8s.kubernetes.tokens import Tokens
from nodepool_k8s.manifests import DEPLOYMENT_LABEL
from nodepool_k8s.model import Namespace, Pod

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Started:
    """The parts of a connected cluster."""

    spawn: Spawn
    cache: ObjectCache
    copied: CopiedObjects
    creator: NodeCreator
    deleter: NodeDeleter


class Cluster:
    """The cluster of one provider, seen by one deployment."""

    def __init__(
        self, provider: Provider, deployment: str, client: ApiClient | None = None
    ) -> None:
        """``client`` is the API client; by default the cluster creates its own."""
        self.provider = provider
        self.deployment = deployment
        self.uid = ""
        """Identifies the cluster, whatever its contexts are called; known once started."""
        self._client = client or ApiClient(provider.context, provider.name)
        self._tokens = Tokens(self._client, provider.name, deployment)
        self.reader = ObjectReader(self._client, deployment)
        """Asks the API server itself."""
        self._started: _Started | None = None
        self._reported_rights: set[str] = set()
        self._has_started = asyncio.Event()
        self._wanted_since = asyncio.get_running_loop().time()
        self._subscriptions: list[Subscription] = []
        self._tasks: list[asyncio.Task[None]] = []

    # --- connecting -----------------------------------------------------------------------

    async def start(self, spawn: Spawn) -> None:
        """Connect, check the account's rights, and start the watches; see ``synced``.

        Raises ``MissingRights`` or another ``KubernetesError``, and can be called again.
        """
        try:
            await self._client.connect()
            self.uid = await self._read_uid()
            role_kind = await self._check_rights()
        except BaseException:
            await self._client.close()
            raise
        self._begin(spawn, role_kind)

    def _begin(self, spawn: Spawn, role_kind: RoleKind) -> None:
        cache = ObjectCache(self._client, f"{DEPLOYMENT_LABEL}={self.deployment}")
        self._tasks = [
            spawn(f"watch namespaces of {self.provider.name}", cache.namespace_stream.run()),
            spawn(f"watch pods of {self.provider.name}", cache.pod_stream.run()),
        ]
        for subscription in self._subscriptions:
            cache.subscribe(subscription)
        copied = CopiedObjects(self._client, spawn)
        creator = NodeCreator(self._client, self.reader, self._tokens, copied, role_kind)
        deleter = NodeDeleter(self._client, self.reader, cache, self.deployment)
        self._started = _Started(spawn, cache, copied, creator, deleter)
        self._has_started.set()

    def serve(self, provider: Provider) -> None:
        """Prepare for nodes of the provider's labels, as they are configured now.

        Watches the objects that the labels copy.
        """
        self.provider = provider
        if self._started is None:
            return
        self._started.copied.want(
            source
            for pool in provider.pools
            for label in pool.labels.values()
            for source in label.copies.sources
        )
        self._started.spawn(
            f"check rights for labels of {provider.name}", self._check_labels(provider)
        )

    async def _check_labels(self, provider: Provider) -> None:
        """Report labels that lack rights; the others are served."""
        try:
            lacking = await rights.missing_by_label(self._client, provider)
        except KubernetesError as error:
            log.debug("%s: rights could not be checked: %s", provider.name, error)
            return
        for lack in lacking:
            if lack not in self._reported_rights:
                log.error("%s", lack)
        self._reported_rights = set(lacking)

    async def close(self) -> None:
        """Stop the watches and close every connection."""
        tasks, self._tasks = self._tasks, []
        await cancel_all(tasks)
        if self._started is not None:
            await self._started.copied.close()
        await self._client.close()

    async def synced(self) -> None:
        """Wait until ``start`` is done and the cache has listed everything."""
        await self._has_started.wait()
        await self._cache.synced()

    @property
    def out_of_touch_since(self) -> float | None:
        """The loop's time since which the cache may be stale; None while both watches work.

        Before ``start`` is done, the time since which the cluster is wanted.
        """
        if self._started is None:
            return self._wanted_since
        return self._started.cache.out_of_touch_since

    def subscribe(self, subscription: Subscription) -> None:
        """Notify of lost pods and of namespaces that appear and disappear."""
        self._subscriptions.append(subscription)
        if self._started is not None:
            self._started.cache.subscribe(subscription)

    async def _read_uid(self) -> str:
        """By convention the UID of kube-system, which is never recreated."""
        try:
            found = await self._client.get(path_in("kube-system"), None, METADATA)
            return namespace_record(found).uid
        except ApiError as error:
            if error.status not in (403, 404):
                raise
            return str(self._client.configuration.host)

    async def _check_rights(self) -> RoleKind:
        """Return the kind of role that nodes' accounts can be bound to. Raises MissingRights."""
        who = f"provider {self.provider.name}"
        if await rights.missing(self._client, (rights.TOKEN_REQUEST,)):
            self._tokens.use_secrets()
        needed = rights.NEEDED
        if not self._tokens.by_request or _wants_token_secrets(self.provider):
            needed += rights.FOR_TOKEN_SECRETS
        await rights.require(self._client, needed, who)
        by_cluster_role = (
            self.provider.access_role == "cluster"
            and await rights.ensure_cluster_roles(self._client)
        )
        if by_cluster_role:
            return "ClusterRole"
        await rights.require(self._client, rights.FOR_OWN_ROLES, who)
        if self.provider.access_role == "cluster":
            log.warning(
                "%s: the ClusterRoles for nodes cannot be created or bound; each namespace gets "
                "a Role of its own (%s has them)",
                who,
                rights.MANIFEST,
            )
        return "Role"

    # --- for requestors ---------------------------------------------------------------------

    @property
    def api_url(self) -> str:
        """The address at which the launcher reaches the API server."""
        return str(self._client.configuration.host)

    @property
    def ca_crt(self) -> str | None:
        """The CAs of the API server's certificate, base64 of PEM; None: the system's."""
        return credentials.encoded(self._client.authorities)

    @property
    def skip_tls(self) -> bool:
        """Whether the admin turned off the check of the API server's certificate."""
        return not self._client.configuration.verify_ssl

    # --- the cache -----------------------------------------------------------------------------

    def namespaces(self) -> tuple[Namespace, ...]:
        """The deployment's namespaces, from the cache."""
        return self._cache.namespaces()

    @property
    def in_sync(self) -> bool:
        """Whether the cache has listed everything since the cluster was connected."""
        return self._started is not None and self._started.cache.in_sync

    def namespace(self, name: str) -> Namespace | None:
        """The deployment's namespace of that name, from the cache."""
        return self._cache.namespace(name)

    def pods(self, namespace: str) -> tuple[Pod, ...]:
        """The deployment's pods in a namespace, from the cache."""
        return self._cache.pods(namespace)

    async def changed(self, namespace: str, timeout: float | None) -> bool:
        """Wait for the next change of a namespace or its pods; False after ``timeout`` seconds.

        Look first, then call, with no await between: no change is missed then.
        """
        return await self._cache.changed(namespace, timeout)

    # --- creating and deleting -----------------------------------------------------------------

    @property
    def creator(self) -> NodeCreator:
        """Creates nodes' objects. Raises KubernetesError before ``start`` is done."""
        return self._connected.creator

    @property
    def deleter(self) -> NodeDeleter:
        """Deletes nodes' objects. Raises KubernetesError before ``start`` is done."""
        return self._connected.deleter

    @property
    def _cache(self) -> ObjectCache:
        return self._connected.cache

    @property
    def _connected(self) -> _Started:
        if self._started is None:
            raise KubernetesError(f"provider {self.provider.name} is not connected yet")
        return self._started


def _wants_token_secrets(provider: Provider) -> bool:
    return any(
        label.launch.access_token.kind == "secret"
        for pool in provider.pools
        for label in pool.labels.values()
    )
