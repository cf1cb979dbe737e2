"""One provider's cluster, as the launcher sees it: make a node's objects, watch, remove them.

Owns the client and the mirror of one provider. It knows nothing of quota, requests or
ZooKeeper, and decides nothing about a node: it says what is there (``pods``, ``changed``)
and does what it is told. Calls that fail for passing reasons are tried again here for a
few seconds; creating something twice finds what is there already and takes it over.

A launch reads::

    namespace = await cluster.creator.create_namespace(objects)   # its UID goes into the record
    async with asyncio.TaskGroup() as group:
        access = group.create_task(cluster.creator.create_access(objects))
        group.create_task(cluster.creator.create_pod(objects))    # pod labels only
    while not decided(cluster.pods(namespace.name)):
        await cluster.changed(namespace.name, timeout)

``create_pod`` makes what the pod itself needs (its service account, the root CA, copies,
claims, policies) and the pod, with its replicas; ``create_access`` what the requestor needs
(``zuul-worker``, its role, its token). Neither waits for anything of the other.

A removal reads::

    await cluster.deleter.delete_node(name, grace)   # pods first, then the namespace
    await cluster.deleter.pods_gone(name)            # or namespace_gone, for what outlives its pods

What a watch may not show yet is asked of the API server: ``cluster.reader``.
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
    """What there is once a cluster is connected."""

    spawn: Spawn
    mirror: ObjectCache
    sources: CopiedObjects
    creator: NodeCreator
    deleter: NodeDeleter


class Cluster:
    """The cluster of one provider, seen by one deployment."""

    def __init__(
        self, provider: Provider, deployment: str, client: ApiClient | None = None
    ) -> None:
        """``client`` is what reaches its API server, one of its own where none is given."""
        self.provider = provider
        self.deployment = deployment
        self.uid = ""
        """Which cluster it is, wherever it is called what; known once started."""
        self._client = client or ApiClient(provider.context, provider.name)
        self._tokens = Tokens(self._client, provider.name, deployment)
        self.reader = ObjectReader(self._client, deployment)
        """Asks the API server itself."""
        self._started: _Started | None = None
        self._told: set[str] = set()
        self._has_started = asyncio.Event()
        self._wanted_since = asyncio.get_running_loop().time()
        self._subscriptions: list[Subscription] = []
        self._tasks: list[asyncio.Task[None]] = []

    # --- coming and going -----------------------------------------------------------------

    async def start(self, spawn: Spawn) -> None:
        """Connect, check our rights, and start the watches; ``synced`` says when they show.

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
        mirror = ObjectCache(self._client, f"{DEPLOYMENT_LABEL}={self.deployment}")
        self._tasks = [
            spawn(f"watch namespaces of {self.provider.name}", mirror.namespace_stream.run()),
            spawn(f"watch pods of {self.provider.name}", mirror.pod_stream.run()),
        ]
        for subscription in self._subscriptions:
            mirror.subscribe(subscription)
        sources = CopiedObjects(self._client, spawn)
        creator = NodeCreator(self._client, self.reader, self._tokens, sources, role_kind)
        deleter = NodeDeleter(self._client, self.reader, mirror, self.deployment)
        self._started = _Started(spawn, mirror, sources, creator, deleter)
        self._has_started.set()

    def serve(self, provider: Provider) -> None:
        """Be ready for nodes of the provider's labels, as they are configured now.

        What they bring along is watched from now on.
        """
        self.provider = provider
        if self._started is None:
            return
        self._started.sources.want(
            source
            for pool in provider.pools
            for label in pool.labels.values()
            for source in label.copies.sources
        )
        self._started.spawn(
            f"check rights for labels of {provider.name}", self._check_labels(provider)
        )

    async def _check_labels(self, provider: Provider) -> None:
        """A label whose rights are missing must not keep the others from being served."""
        try:
            lacking = await rights.missing_by_label(self._client, provider)
        except KubernetesError as error:
            log.debug("%s: rights could not be checked: %s", provider.name, error)
            return
        for lack in lacking:
            if lack not in self._told:
                log.error("%s", lack)
        self._told = set(lacking)

    async def close(self) -> None:
        """Stop the watches and close every connection."""
        tasks, self._tasks = self._tasks, []
        await cancel_all(tasks)
        if self._started is not None:
            await self._started.sources.close()
        await self._client.close()

    async def synced(self) -> None:
        """Wait until ``start`` is through and the mirror shows all that was there."""
        await self._has_started.wait()
        await self._mirror.synced()

    @property
    def out_of_touch_since(self) -> float | None:
        """The loop's time since which the mirror may be stale; None while both watches work.

        Before ``start`` is through, the time since which the cluster is wanted.
        """
        if self._started is None:
            return self._wanted_since
        return self._started.mirror.out_of_touch_since

    def subscribe(self, subscription: Subscription) -> None:
        """Tell that one about lost pods and namespaces that come and go, before start or after."""
        self._subscriptions.append(subscription)
        if self._started is not None:
            self._started.mirror.subscribe(subscription)

    async def _read_uid(self) -> str:
        """By convention the UID of this namespace, which is never made anew."""
        try:
            found = await self._client.get(path_in("kube-system"), None, METADATA)
            return namespace_record(found).uid
        except ApiError as error:
            if error.status not in (403, 404):
                raise
            return str(self._client.configuration.host)

    async def _check_rights(self) -> RoleKind:
        """Raise MissingRights, or tell what kind of role nodes' accounts can be bound to."""
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
                "%s: the ClusterRoles for nodes cannot be made or bound; each namespace gets "
                "a Role of its own (%s has them)",
                who,
                rights.MANIFEST,
            )
        return "Role"

    # --- what requestors are told -----------------------------------------------------------

    @property
    def server_url(self) -> str:
        """The address of the API server for requestors."""
        return self.provider.api_server_url or self.api_url

    @property
    def api_url(self) -> str:
        """The address at which we reach the API server ourselves."""
        return str(self._client.configuration.host)

    @property
    def ca_crt(self) -> str | None:
        """The authorities of the API server's certificate, base64 of PEM; None: the system's."""
        return credentials.encoded(self._client.authorities)

    @property
    def skip_tls(self) -> bool:
        """Whether the admin turned off the check of the API server's certificate."""
        return not self._client.configuration.verify_ssl

    # --- what is there -------------------------------------------------------------------------

    def namespaces(self) -> tuple[Namespace, ...]:
        """Our namespaces, from the mirror."""
        return self._mirror.namespaces()

    @property
    def in_sync(self) -> bool:
        """Whether the mirror shows all that was there when we connected, and what came since."""
        return self._started is not None and self._started.mirror.in_sync

    def namespace(self, name: str) -> Namespace | None:
        """The namespace of ours of that name, from the mirror."""
        return self._mirror.namespace(name)

    def pods(self, namespace: str) -> tuple[Pod, ...]:
        """Our pods in a namespace, from the mirror."""
        return self._mirror.pods(namespace)

    async def changed(self, namespace: str, timeout: float | None) -> bool:
        """Wait for the next change of a namespace or its pods; False after ``timeout`` seconds.

        Look first, then call, with no await between: what changes in between is not missed.
        """
        return await self._mirror.changed(namespace, timeout)

    # --- what is to be done --------------------------------------------------------------------

    @property
    def creator(self) -> NodeCreator:
        """Makes nodes' objects. Raises KubernetesError before ``start`` is through."""
        return self._connected.creator

    @property
    def deleter(self) -> NodeDeleter:
        """Removes nodes' objects. Raises KubernetesError before ``start`` is through."""
        return self._connected.deleter

    @property
    def _mirror(self) -> ObjectCache:
        return self._connected.mirror

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
