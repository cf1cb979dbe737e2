"""Creates the objects of one node: its namespace, the requestor's access, the pods.

Calls that fail for transient reasons are retried; creating an object twice adopts the one
that exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Literal

from nodepool_k8s.aio import gather_all, gather_first
from nodepool_k8s.config.settings import AccessTokenSettings, CopySource
from nodepool_k8s.errors import (
    ApiError,
    ClusterUnreachable,
    CommandError,
    CommandNotStarted,
    KubernetesError,
    SourceUnusable,
    describe,
)
from nodepool_k8s.kubernetes import exec
from nodepool_k8s.kubernetes.client import ApiClient
from nodepool_k8s.kubernetes.copied_objects import CopiedObjects
from nodepool_k8s.kubernetes.fetching import ObjectReader
from nodepool_k8s.kubernetes.parsing import namespace_record, parsing, pod_record
from nodepool_k8s.kubernetes.retrying import (
    NAMESPACES,
    RetryingClient,
    already_exists,
    path_in,
)
from nodepool_k8s.kubernetes.tokens import Tokens
from nodepool_k8s.manifests import (
    DEPLOYMENT_LABEL,
    NODE_ID_LABEL,
    RBAC,
    WORKER,
    Manifest,
    NodeObjects,
    unfit,
)
from nodepool_k8s.model import AccessToken, LabelType, Namespace, Pod, SourceContent

HARMLESS = "true"
"""The command of the ready-check."""
COMMAND_SECONDS = 10.0

RoleKind = Literal["ClusterRole", "Role"]


class NodeCreator:
    """Creates the objects of one provider's nodes. Everything raises KubernetesError."""

    def __init__(
        self,
        client: ApiClient,
        reader: ObjectReader,
        tokens: Tokens,
        copied: CopiedObjects,
        role_kind: RoleKind,
    ) -> None:
        self._client = client
        self._calls = RetryingClient(client)
        self._reader = reader
        self._tokens = tokens
        self._copied = copied
        self.role_kind = role_kind
        """What the requestor's account is bound to."""

    # --- called by a launch ----------------------------------------------------------------------

    async def create_namespace(self, objects: NodeObjects) -> Namespace:
        """Create the node's namespace, or adopt the one that an earlier call created."""
        manifest = objects.namespace()
        try:
            return namespace_record(await self._calls.post(NAMESPACES, manifest))
        except ApiError as error:
            if not already_exists(error):
                raise
            present = await self._reader.get_namespace(objects.namespace_name)
            if present is None or present.deleting or not _same_node(present.labels, manifest):
                raise
            return present

    async def create_access(self, objects: NodeObjects) -> AccessToken:
        """Create the requestor's service account with its role, and get a token for it.

        The requestor of a namespace label creates pods, so what they need is created, too.
        """
        parts = [self._binding(objects)]
        if objects.label.type is LabelType.NAMESPACE:
            parts += [self._needs_of_pods(objects), self._root_ca(objects)]
        return await gather_first(self._account_and_token(objects), *parts)

    async def create_pod(self, objects: NodeObjects) -> Pod:
        """Create what the node's pods need, then the pods; return the first pod.

        Includes objects that controllers would create later.
        """
        return await gather_first(self._needs_and_pods(objects), self._root_ca(objects))

    async def create_token(self, namespace: str, settings: AccessTokenSettings) -> AccessToken:
        """Get a token of a node's service account; used again when a ready node is reused."""
        return await self._tokens.create(namespace, settings)

    async def try_commands(self, namespace: str, pods: Iterable[str], access: AccessToken) -> None:
        """Run ``true`` in each of the pods with the requestor's token.

        Raises KubernetesError where that fails: CommandNotStarted where the image lacks it.
        """
        api = self._client.as_bearer(access.token)
        await gather_all([self._try_command(api, namespace, pod) for pod in pods])

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
        await self._calls.patch(path_in(namespace, "pods", pod), patch)

    async def patch_namespace(self, namespace: str, patch: Manifest) -> None:
        """Apply a merge patch to a node's namespace."""
        await self._calls.patch(path_in(namespace), patch)

    # --- in parts ------------------------------------------------------------------------------

    async def _account_and_token(self, objects: NodeObjects) -> AccessToken:
        name = objects.namespace_name
        await self._calls.ensure(path_in(name, "serviceaccounts"), objects.service_account(WORKER))
        return await self._tokens.create(name, objects.label.launch.access_token)

    async def _binding(self, objects: NodeObjects) -> None:
        name = objects.namespace_name
        if self.role_kind == "Role":
            await self._calls.ensure(path_in(name, "roles", group=RBAC), objects.role())
        binding = objects.role_binding(self.role_kind)
        await self._calls.ensure(path_in(name, "rolebindings", group=RBAC), binding)

    async def _needs_and_pods(self, objects: NodeObjects) -> Pod:
        await self._needs_of_pods(objects)
        namespace = objects.namespace_name
        pods = [self._pod(namespace, manifest) for manifest in objects.pods()]
        return (await gather_all(pods))[0]

    async def _needs_of_pods(self, objects: NodeObjects) -> None:
        """Create what must exist before the pods: policies apply to them from the start."""
        contents = {source: await self._content(objects, source) for source in objects.sources}
        further = [
            self._calls.ensure(_path_of(objects.namespace_name, resource, manifest), manifest)
            for resource, manifest in objects.before_pod(contents)
        ]
        await gather_all([self._account(objects), *further])

    async def _content(self, objects: NodeObjects, source: CopySource) -> SourceContent:
        content = await self._copied.content(source)
        if why := unfit(objects.label.copies, source, content):
            raise SourceUnusable(why)
        return content

    async def _pod(self, namespace: str, manifest: Manifest) -> Pod:
        name = manifest["metadata"]["name"]
        try:
            path = path_in(namespace, "pods")
            return pod_record(await self._calls.post(path, manifest))
        except ApiError as error:
            if not already_exists(error):
                raise
            present = await self._client.get(path_in(namespace, "pods", name))
            with parsing(f"pod {namespace}/{name}"):
                labels = present["metadata"].get("labels") or {}
                if not _same_node(labels, manifest):
                    raise
            return pod_record(present)

    async def _account(self, objects: NodeObjects) -> None:
        account = objects.service_account(objects.account)
        await self._calls.ensure(path_in(objects.namespace_name, "serviceaccounts"), account)

    async def _root_ca(self, objects: NodeObjects) -> None:
        """Create it early; its controller corrects the content where that differs."""
        pem = self._client.authorities
        if pem is not None:
            await self._calls.ensure(
                path_in(objects.namespace_name, "configmaps"), objects.root_ca(pem)
            )


def _same_node(labels: Mapping[str, str], manifest: Manifest) -> bool:
    wanted = manifest["metadata"]["labels"]
    return all(labels.get(key) == wanted[key] for key in (DEPLOYMENT_LABEL, NODE_ID_LABEL))


def _path_of(namespace: str, resource: str, manifest: Manifest) -> str:
    group = manifest["apiVersion"].rpartition("/")[0]
    return path_in(namespace, resource, group=group)
