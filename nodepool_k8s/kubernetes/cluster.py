"""One provider's cluster, as the launcher sees it: make a node's objects, watch, remove them.

Owns the client and the mirror of one provider. It knows nothing of quota, requests or
ZooKeeper, and decides nothing about a node: it says what is there (``pods``, ``changed``)
and does what it is told. Calls that fail for passing reasons are tried again here for a
few seconds; creating something twice finds what is there already and takes it over.

A launch reads::

    namespace = await cluster.create_namespace(objects)   # its UID goes into the record
    async with asyncio.TaskGroup() as group:
        access = group.create_task(cluster.create_access(objects))
        group.create_task(cluster.create_pod(objects))    # pod labels only
    while not decided(cluster.pods(namespace.name)):
        await cluster.changed(namespace.name, timeout)

``create_pod`` makes what the pod itself needs (its service account, the root CA, copies,
claims, policies) and the pod, with its replicas; ``create_access`` what the requestor needs
(``zuul-worker``, its role, its token). Neither waits for anything of the other.

A removal reads::

    await cluster.delete_node(name, grace)   # pods first, then the namespace
    await cluster.pods_gone(name)            # or namespace_gone, for what outlives its pods
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from nodepool_k8s import backoff
from nodepool_k8s.config.label_settings import Source
from nodepool_k8s.config.settings import AccessTokenSettings, Provider
from nodepool_k8s.errors import (
    ApiError,
    ClusterUnreachable,
    CommandError,
    CommandNotStarted,
    KubernetesError,
    NotFound,
    SourceUnusable,
    describe,
)
from nodepool_k8s.kubernetes import credentials, exec, rights
from nodepool_k8s.kubernetes.client import METADATA, METADATA_LIST, ApiClient, Object
from nodepool_k8s.kubernetes.records import (
    items,
    named,
    namespace_record,
    pod_record,
    reading,
    text,
    whole,
)
from nodepool_k8s.kubernetes.sources import Sources
from nodepool_k8s.kubernetes.watching import PAGE, Mirror, Subscription
from nodepool_k8s.manifests import (
    DEPLOYMENT_LABEL,
    NODE_ID_LABEL,
    RBAC,
    WORKER,
    Manifest,
    NodeObjects,
    token_request,
    token_secret,
    unfit,
)
from nodepool_k8s.model import AccessToken, LabelType, Namespace, Pod, SourceContent
from nodepool_k8s.policy.diagnosis import ALREADY_EXISTS, Hopeless, Transient, judge

log = logging.getLogger(__name__)

TRIES = 6
"""How often a call is tried that fails for passing reasons: over some six seconds."""
TOKEN_SECRET_SECONDS = 30.0
RECHECK_SECONDS = 30.0
"""How long the mirror is trusted, while a node is removed, to show what still is there."""
LAG_SECONDS = 1.0
"""How long to wait for news where the mirror shows less than the API server has."""
EVENTS_SHOWN = 5
HARMLESS = "true"
"""What is run to see whether commands can be."""
COMMAND_SECONDS = 10.0

T = TypeVar("T")


class Spawn(Protocol):
    """How the launcher starts a supervised task."""

    def __call__(
        self, name: str, coroutine: Coroutine[Any, Any, None], /
    ) -> asyncio.Task[None]: ...


class Cluster:
    """The cluster of one provider, seen by one deployment."""

    def __init__(self, provider: Provider, deployment: str) -> None:
        self.provider = provider
        self.deployment = deployment
        self.uid = ""
        """Which cluster it is, wherever it is called what; known once started."""
        self._client = ApiClient(provider.context, provider.name)
        self._started: Mirror | None = None
        self._sources: Sources | None = None
        self._spawn: Spawn | None = None
        self._told: set[str] = set()
        self._has_started = asyncio.Event()
        self._wanted_since = asyncio.get_running_loop().time()
        self._subscriptions: list[Subscription] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._role_kind = "ClusterRole"
        self._tokens_by_request = True

    # --- coming and going -----------------------------------------------------------------

    async def start(self, spawn: Spawn) -> None:
        """Connect, check our rights, and start the watches; ``synced`` says when they show.

        Raises ``MissingRights`` or another ``KubernetesError``, and can be called again.
        """
        try:
            await self._client.connect()
            self.uid = await self._read_uid()
            await self._check_rights()
        except BaseException:
            await self._client.close()
            raise
        mirror = Mirror(self._client, self._selector)
        self._tasks = [
            spawn(f"watch namespaces of {self.provider.name}", mirror.namespace_stream.run()),
            spawn(f"watch pods of {self.provider.name}", mirror.pod_stream.run()),
        ]
        for subscription in self._subscriptions:
            mirror.subscribe(subscription)
        self._sources = Sources(self._client, spawn)
        self._spawn = spawn
        self._started = mirror
        self._has_started.set()

    def serve(self, provider: Provider) -> None:
        """Be ready for nodes of the provider's labels, as they are configured now.

        What they bring along is watched from now on.
        """
        self.provider = provider
        if self._sources is None or self._spawn is None:
            return
        self._sources.want(
            source
            for pool in provider.pools
            for label in pool.labels.values()
            for source in label.copies.sources
        )
        self._spawn(f"check rights for labels of {provider.name}", self._check_labels(provider))

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
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._sources is not None:
            await self._sources.close()
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
        return self._started.out_of_touch_since

    def subscribe(self, subscription: Subscription) -> None:
        """Tell that one about lost pods and namespaces that come and go, before start or after."""
        self._subscriptions.append(subscription)
        if self._started is not None:
            self._started.subscribe(subscription)

    async def _read_uid(self) -> str:
        """By convention the UID of this namespace, which is never made anew."""
        try:
            found = await self._client.get(_path("kube-system"), None, METADATA)
            return namespace_record(found).uid
        except ApiError as error:
            if error.status not in (403, 404):
                raise
            return str(self._client.configuration.host)

    async def _check_rights(self) -> None:
        who = f"provider {self.provider.name}"
        if await rights.missing(self._client, (rights.TOKEN_REQUEST,)):
            self._use_token_secrets()
        needed = rights.NEEDED
        if not self._tokens_by_request or _wants_token_secrets(self.provider):
            needed += rights.FOR_TOKEN_SECRETS
        await rights.require(self._client, needed, who)
        by_cluster_role = (
            self.provider.access_role == "cluster"
            and await rights.ensure_cluster_roles(self._client)
        )
        if by_cluster_role:
            return
        await rights.require(self._client, rights.FOR_OWN_ROLES, who)
        self._role_kind = "Role"
        if self.provider.access_role == "cluster":
            log.warning(
                "%s: the ClusterRoles for nodes cannot be made or bound; each namespace gets "
                "a Role of its own (%s has them)",
                who,
                rights.MANIFEST,
            )

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
        return self._started is not None and self._started.in_sync

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

    async def list_namespaces(self) -> tuple[Namespace, ...]:
        """Our namespaces, asked of the API server itself."""
        found: list[Namespace] = []
        query: dict[str, str | int] = {"labelSelector": self._selector, "limit": PAGE}
        while True:
            page = await self._persist(
                lambda: self._client.get("/api/v1/namespaces", query, METADATA_LIST)
            )
            with reading("the list of namespaces"):
                found.extend(namespace_record(raw) for raw in items(page))
                more = text(page["metadata"], "continue")
            if not more:
                return tuple(found)
            query["continue"] = more

    async def get_namespace(self, name: str) -> Namespace | None:
        """The namespace of that name, anybody's, asked of the API server; None: there is none."""
        try:
            return namespace_record(await self._persist(lambda: self._client.get(_path(name))))
        except NotFound:
            return None

    async def list_pods(self, namespace: str) -> tuple[Pod, ...]:
        """Our pods in a namespace, asked of the API server itself."""
        query: dict[str, str | int] = {"labelSelector": self._selector, "limit": PAGE}
        path = _path(namespace, "pods")
        page = await self._persist(lambda: self._client.get(path, query))
        with reading(f"the list of pods in {namespace}"):
            return tuple(pod_record(raw) for raw in items(page))

    async def events(self, namespace: str) -> list[str]:
        """Tell the last Warning events of a namespace: some causes appear nowhere else."""
        query: dict[str, str | int] = {"fieldSelector": "type=Warning", "limit": PAGE}
        page = await self._client.get(_path(namespace, "events"), query)
        with reading(f"the list of events in {namespace}"):
            found = sorted(items(page), key=_event_time)
            return [_event_text(event) for event in found[-EVENTS_SHOWN:]]

    async def namespace_blockers(self, name: str) -> list[str]:
        """Tell what holds a namespace that stays Terminating."""
        try:
            namespace = await self._client.get(_path(name))
        except NotFound:
            return []
        with reading(f"namespace {name}"):
            return [
                f"{named(condition['type'])}: {text(condition, 'message')}"
                for condition in (namespace.get("status") or {}).get("conditions") or ()
                if condition.get("status") == "True"
            ]

    # --- making a node -----------------------------------------------------------------------

    async def create_namespace(self, objects: NodeObjects) -> Namespace:
        """Create the node's namespace, or take over the one that an earlier try made."""
        manifest = objects.namespace()
        try:
            made = await self._persist(lambda: self._client.post("/api/v1/namespaces", manifest))
            return namespace_record(made)
        except ApiError as error:
            if not _already_exists(error):
                raise
            present = await self.get_namespace(objects.namespace_name)
            if present is None or present.deleting or not _same_node(present.labels, manifest):
                raise
            return present

    async def create_access(self, objects: NodeObjects) -> AccessToken:
        """Create the requestor's service account with its role, and get it a token.

        A namespace label's requestor makes pods himself, and finds what they need there.
        """
        parts = [self._binding(objects)]
        if objects.label.type is LabelType.NAMESPACE:
            parts += [self._needs_of_pods(objects), self._root_ca(objects)]
        return await _together(self._account_and_token(objects), *parts)

    async def create_pod(self, objects: NodeObjects) -> Pod:
        """Create the node's pods, and ahead of them what they need; the first of them.

        What controllers would be slow to make is not left to them.
        """
        return await _together(self._needs_and_pods(objects), self._root_ca(objects))

    async def create_token(self, namespace: str, settings: AccessTokenSettings) -> AccessToken:
        """Get a token of a node's service account; used again when a ready node is reused."""
        if settings.kind == "secret" or not self._tokens_by_request:
            return await self._secret_token(namespace)
        try:
            return await self._requested_token(namespace, settings)
        except ApiError as error:
            if error.status != 403 or not isinstance(judge(error), Hopeless):
                raise
        self._use_token_secrets()
        return await self._secret_token(namespace)

    async def try_commands(self, namespace: str, pods: Iterable[str], access: AccessToken) -> None:
        """Run ``true`` in each of the pods, as the node's requestor, by his token.

        Raises KubernetesError where that fails: CommandNotStarted where it is not there.
        """
        api = self._client.as_bearer(access.token)
        await _each([self._try_command(api, namespace, pod) for pod in pods])

    async def _try_command(self, api: exec.Api, namespace: str, pod: str) -> None:
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                status = await exec.execute(api, namespace, pod, [HARMLESS])
        except TimeoutError as error:
            why = f"{HARMLESS} in pod {pod} has not ended after {COMMAND_SECONDS:.0f} s"
            raise CommandError(why) from error
        except ClusterUnreachable:
            raise
        except CommandNotStarted as error:
            raise CommandNotStarted(f"{HARMLESS} in pod {pod}: {describe(error)}") from error
        except KubernetesError as error:
            raise CommandError(f"{HARMLESS} in pod {pod}: {describe(error)}") from error
        if status:
            raise CommandError(f"{HARMLESS} in pod {pod} ended with exit status {status}")

    async def patch_pod(self, namespace: str, pod: str, patch: Manifest) -> None:
        """Apply a merge patch to a node's pod."""
        await self._persist(lambda: self._client.patch(_path(namespace, "pods", pod), patch))

    async def patch_namespace(self, namespace: str, patch: Manifest) -> None:
        """Apply a merge patch to a node's namespace."""
        await self._persist(lambda: self._client.patch(_path(namespace), patch))

    async def _account_and_token(self, objects: NodeObjects) -> AccessToken:
        name = objects.namespace_name
        await self._ensure(_path(name, "serviceaccounts"), objects.service_account(WORKER))
        return await self.create_token(name, objects.label.launch.access_token)

    async def _binding(self, objects: NodeObjects) -> None:
        name = objects.namespace_name
        if self._role_kind == "Role":
            await self._ensure(_path(name, "roles", group=RBAC), objects.role())
        binding = objects.role_binding(self._role_kind)
        await self._ensure(_path(name, "rolebindings", group=RBAC), binding)

    async def _needs_and_pods(self, objects: NodeObjects) -> Pod:
        await self._needs_of_pods(objects)
        namespace = objects.namespace_name
        pods = [self._pod(namespace, manifest) for manifest in objects.pods()]
        return (await _each(pods))[0]

    async def _needs_of_pods(self, objects: NodeObjects) -> None:
        """Create all that is to be there first: a policy holds from the first second."""
        contents = {source: await self._content(objects, source) for source in objects.sources}
        further = [
            self._ensure(_path_of(objects.namespace_name, resource, manifest), manifest)
            for resource, manifest in objects.before_pod(contents)
        ]
        await _each([self._account(objects), *further])

    async def _content(self, objects: NodeObjects, source: Source) -> SourceContent:
        if self._sources is None:
            raise KubernetesError(f"provider {self.provider.name} is not connected yet")
        content = await self._sources.content(source)
        if why := unfit(objects.label.copies, source, content):
            raise SourceUnusable(why)
        return content

    async def _pod(self, namespace: str, manifest: Manifest) -> Pod:
        name = manifest["metadata"]["name"]
        try:
            path = _path(namespace, "pods")
            return pod_record(await self._persist(lambda: self._client.post(path, manifest)))
        except ApiError as error:
            if not _already_exists(error):
                raise
            present = await self._client.get(_path(namespace, "pods", name))
            with reading(f"pod {namespace}/{name}"):
                labels = present["metadata"].get("labels") or {}
                if not _same_node(labels, manifest):
                    raise
            return pod_record(present)

    async def _account(self, objects: NodeObjects) -> None:
        account = objects.service_account(objects.account)
        await self._ensure(_path(objects.namespace_name, "serviceaccounts"), account)

    async def _root_ca(self, objects: NodeObjects) -> None:
        """Its controller corrects it, should requestors need other authorities than we do."""
        pem = self._client.authorities
        if pem is not None:
            await self._ensure(_path(objects.namespace_name, "configmaps"), objects.root_ca(pem))

    async def _ensure(self, path: str, manifest: Manifest) -> None:
        """Create it; in a namespace of ours, what is there already is ours or a controller's."""
        try:
            await self._persist(lambda: self._client.post(path, manifest))
        except ApiError as error:
            if not _already_exists(error):
                raise

    # --- tokens -----------------------------------------------------------------------------

    async def _requested_token(self, namespace: str, settings: AccessTokenSettings) -> AccessToken:
        path = _path(namespace, "serviceaccounts", WORKER, "token")
        request = token_request(settings.lifetime)
        answer = await self._persist(lambda: self._client.post(path, request))
        with reading(f"the token for {namespace}/{WORKER}"):
            status = answer["status"]
            expires = datetime.fromisoformat(status["expirationTimestamp"]).timestamp()
            return AccessToken(named(status["token"]), expires)

    async def _secret_token(self, namespace: str) -> AccessToken:
        await self._ensure(_path(namespace, "secrets"), token_secret(self.deployment))
        path = _path(namespace, "secrets", WORKER)
        try:
            async with asyncio.timeout(TOKEN_SECRET_SECONDS):
                for failures in itertools.count(1):
                    secret = await self._persist(lambda: self._client.get(path))
                    with reading(f"Secret {namespace}/{WORKER}"):
                        token = credentials.decoded(text(secret.get("data") or {}, "token"))
                    if token:
                        return AccessToken(token)
                    # Its controller is the slow one: asking often would not hurry it.
                    await asyncio.sleep(min(1.0, backoff.delay(failures, random.random())))
        except TimeoutError as error:
            raise KubernetesError(
                f"no token appeared in the Secret {namespace}/{WORKER} within "
                f"{TOKEN_SECRET_SECONDS:.0f} s: is the token controller running?"
            ) from error
        raise AssertionError("unreachable")

    def _use_token_secrets(self) -> None:
        if self._tokens_by_request:
            self._tokens_by_request = False
            log.warning(
                "provider %s: the launcher's account may not create serviceaccounts/token; "
                "nodes get lasting tokens from Secrets instead (%s has the right)",
                self.provider.name,
                rights.MANIFEST,
            )

    # --- removing a node ----------------------------------------------------------------------

    async def delete_node(self, namespace: str, grace: float) -> None:
        """Delete a node's pods and then its namespace; what is gone already is fine.

        ``grace`` caps the pods' own grace period. A namespace that is not ours is left
        alone. Returns when the deletion of the namespace was accepted: nothing new can
        be created in it any more.
        """
        present = self._mirror.namespace(namespace) or await self.get_namespace(namespace)
        if present is None or present.labels.get(DEPLOYMENT_LABEL) != self.deployment:
            return
        await self._delete_pods(namespace, grace)
        await self._delete(_path(namespace), {"preconditions": {"uid": present.uid}})

    async def pods_gone(self, namespace: str) -> None:
        """Wait until no pod is left in a namespace whose deletion was accepted.

        The mirror says when to look, the API server has the last word: the mirror may
        not have shown yet a pod that was created just before.
        """
        while True:
            while self._mirror.pods(namespace):
                if not await self._mirror.changed(namespace, RECHECK_SECONDS):
                    break
            if not await self._has_pods(namespace):
                return
            if not self._mirror.pods(namespace):
                await self._mirror.changed(namespace, LAG_SECONDS)

    async def namespace_gone(self, namespace: str) -> None:
        """Wait until a namespace whose deletion was accepted is gone with all that was in it."""
        while True:
            while self._mirror.namespace(namespace) is not None:
                if not await self._mirror.changed(namespace, RECHECK_SECONDS):
                    break
            present = await self.get_namespace(namespace)
            if present is None or present.labels.get(DEPLOYMENT_LABEL) != self.deployment:
                return
            if self._mirror.namespace(namespace) is None:
                await self._mirror.changed(namespace, LAG_SECONDS)

    async def _has_pods(self, namespace: str) -> bool:
        # Ours only: in a namespace that is not, somebody else's pods are not waited for.
        query: dict[str, str | int] = {"limit": 1, "labelSelector": self._selector}
        path = _path(namespace, "pods")
        page = await self._persist(lambda: self._client.get(path, query, METADATA_LIST))
        with reading(f"the list of pods in {namespace}"):
            return bool(items(page))

    async def _delete_pods(self, namespace: str, cap: float) -> None:
        """With a grace of whole seconds, never 0: that would hide containers that still run."""
        seconds = max(1, math.ceil(cap))
        pods = self._mirror.pods(namespace)
        if pods:
            await _each(
                [
                    self._delete(
                        _path(namespace, "pods", pod.name),
                        {"gracePeriodSeconds": max(1, min(seconds, pod.grace))},
                    )
                    for pod in pods
                ]
            )
        else:
            # A pod that the mirror lacks yet, or the requestor's own: the server has to look.
            await self._delete(_path(namespace, "pods"), {"gracePeriodSeconds": seconds})

    async def _delete(self, path: str, options: Object) -> None:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        try:
            await self._persist(lambda: self._client.delete(path, body))
        except ApiError as error:
            # 409: the UID is another's, or a namespace that is Terminating already.
            if error.status not in (404, 409):
                raise

    # --- shared ---------------------------------------------------------------------------------

    @property
    def _selector(self) -> str:
        return f"{DEPLOYMENT_LABEL}={self.deployment}"

    @property
    def _mirror(self) -> Mirror:
        if self._started is None:
            raise KubernetesError(f"provider {self.provider.name} is not connected yet")
        return self._started

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Try a call again as long as it fails for passing reasons, but not for long."""
        for failures in range(1, TRIES):
            try:
                return await call()
            except KubernetesError as error:
                verdict = judge(error)
                if not isinstance(verdict, Transient) or _already_exists(error):
                    raise
                pause = backoff.delay(failures, random.random(), verdict.retry_after)
                log.debug("trying again in %.1f s: %s", pause, error)
            await asyncio.sleep(pause)
        return await call()


def _wants_token_secrets(provider: Provider) -> bool:
    return any(
        label.launch.access_token.kind == "secret"
        for pool in provider.pools
        for label in pool.labels.values()
    )


def _path(namespace: str, *parts: str, group: str = "") -> str:
    root = f"/apis/{group}/v1" if group else "/api/v1"
    return "/".join((root, "namespaces", namespace, *parts))


def _path_of(namespace: str, resource: str, manifest: Manifest) -> str:
    group = manifest["apiVersion"].rpartition("/")[0]
    return _path(namespace, resource, group=group)


def _already_exists(error: KubernetesError) -> bool:
    return isinstance(error, ApiError) and error.reason == ALREADY_EXISTS


def _same_node(labels: Mapping[str, str], manifest: Manifest) -> bool:
    wanted = manifest["metadata"]["labels"]
    return all(labels.get(key) == wanted[key] for key in (DEPLOYMENT_LABEL, NODE_ID_LABEL))


def _event_time(event: Object) -> str:
    series = event.get("series") or {}
    return (
        text(series, "lastObservedTime")
        or text(event, "lastTimestamp")
        or text(event, "eventTime")
        or text(event.get("metadata") or {}, "creationTimestamp")
    )


def _event_text(event: Object) -> str:
    count = whole(event, "count", 1)
    times = f" ({count} times)" if count > 1 else ""
    return f"{text(event, 'reason')}: {text(event, 'message')}{times}"


async def _together(first: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, None]) -> T:
    """Run all at once, and return what the first returns, as ``_each`` does."""
    results: list[Any] = await _each([first, *others])
    result: T = results[0]
    return result


async def _each(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once; what fails first is raised as it is, and ends the others."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failed:
        error = failed.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise error
