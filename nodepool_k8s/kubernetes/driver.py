"""The driver ``kubernetes``: each node is a namespace, most with pods in it."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from nodepool_k8s.config import kubeconfig
from nodepool_k8s.config.settings import Label, LaunchSettings, Pool, Provider
from nodepool_k8s.drivers.driver import AttemptContext, Observer, Spawn
from nodepool_k8s.drivers.outcomes import Health, Lost, Owned, Ready
from nodepool_k8s.errors import ConfigError, KubernetesError, describe
from nodepool_k8s.kubernetes import diagnosis
from nodepool_k8s.kubernetes.attempt import STEPS, KubernetesAttempt
from nodepool_k8s.kubernetes.cluster import Cluster
from nodepool_k8s.kubernetes.reflector import Subscription
from nodepool_k8s.kubernetes.tokens import needs_token
from nodepool_k8s.manifests import (
    NODE_ID_LABEL,
    PROVIDER_LABEL,
    namespace_name,
    node_id_in,
    outlives_pods,
    reuse_patch,
    valid_dynamic_labels,
)
from nodepool_k8s.model import DriverData, LabelType, Namespace, Node, NodeRequest, Pod
from nodepool_k8s.names import valid_label_value
from nodepool_k8s.policy.dynamic_labels import dynamic_labels
from nodepool_k8s.znodes.nodes import driver_data_of, ends_with_pods, replicas_of, token_times

log = logging.getLogger(__name__)


class KubernetesDriver:
    """One provider's cluster as a ``drivers.driver.Driver``."""

    steps = STEPS

    def __init__(self, provider: Provider, deployment: str) -> None:
        self._cluster = Cluster(provider, deployment)

    @property
    def provider(self) -> Provider:
        """The provider as it is configured now."""
        return self._cluster.provider

    @property
    def identity(self) -> str:
        """The UID of the cluster."""
        return self._cluster.uid

    @property
    def health(self) -> Health:
        """The state of the two watches."""
        return Health(self._cluster.in_sync, self._cluster.out_of_touch_since)

    # --- connecting ---------------------------------------------------------------------------

    async def start(self, spawn: Spawn) -> None:
        """Connect, check the account's rights, and start the watches."""
        await self._cluster.start(spawn)

    async def synced(self) -> None:
        """Wait until both watches have listed everything."""
        await self._cluster.synced()

    def serve(self, provider: Provider) -> None:
        """Watch what the provider's labels copy, and check their rights."""
        self._cluster.serve(provider)

    def observe(self, observer: Observer) -> None:
        """Notify of lost namespaces and pods, and of broken watches."""

        def lost(namespace: str) -> None:
            node_id = node_id_in(namespace)
            if node_id is not None:
                observer.node_lost(node_id, namespace)

        def appeared(_namespace: str) -> None:
            return

        self._cluster.subscribe(
            Subscription(lost, appeared, lost, lambda: observer.health_changed(self))
        )

    async def close(self) -> None:
        """Stop the watches and close every connection."""
        await self._cluster.close()

    # --- nodes --------------------------------------------------------------------------------

    def external_id(self, pool: Pool, node_id: str, attempt: int) -> str:
        """The name of the attempt's namespace."""
        return namespace_name(pool.name, node_id, attempt)

    def driver_data(self, label: Label) -> DriverData:
        """What the node is made of, and when its slot is free."""
        made: DriverData = {"type": label.type.value}
        if label.replicas > 1:
            made["replicas"] = label.replicas
        if outlives_pods(label):
            made["outlives_pods"] = True
        return made

    def attempt(self, context: AttemptContext) -> KubernetesAttempt:
        """Begin an attempt in a namespace of its own."""
        return KubernetesAttempt(self._cluster, context)

    def why_unusable(self, node: Node, launch: LaunchSettings) -> str | None:
        """By the watches. They lag, so this is only a reason against a hand-over."""
        name = node.external_id or ""
        return _why_unusable(node, self._cluster.namespace(name), self._cluster.pods(name), launch)

    async def why_lost(self, node: Node, launch: LaunchSettings) -> str | None:
        """By the API server, before a ready node is deleted for what a watch shows."""
        name = node.external_id
        if not name:
            return "its record names no namespace"
        reader = self._cluster.reader
        namespace, pods = await reader.get_namespace(name), await reader.list_pods(name)
        return _why_unusable(node, namespace, pods, launch)

    async def prepare_reuse(self, node: Node, label: Label, request: NodeRequest) -> Ready | Lost:
        """Put the request's labels on the node's objects, and renew its token if needed."""
        why = self.why_unusable(node, label.launch)
        if why is not None:
            return Lost(why)
        await self._mark_objects(node, label, request)
        return await self._refresh_token(node, label)

    async def _mark_objects(self, node: Node, label: Label, request: NodeRequest) -> None:
        """Set the request's dynamic labels and the annotations against autoscaling."""
        labels, warnings = dynamic_labels(label.dynamic_labels, request)
        for warning in warnings:
            log.warning("Label %s: %s", label.name, warning)
        creator, name = self._cluster.creator, node.external_id or ""
        labels = valid_dynamic_labels(labels)
        try:
            if labels:
                await creator.patch_namespace(name, reuse_patch(label, labels, pod=False))
            for pod in self._cluster.pods(name):
                await creator.patch_pod(name, pod.name, reuse_patch(label, labels, pod=True))
        except KubernetesError as error:
            # The labels are a convenience; whether the node still exists is checked separately.
            log.warning("Node %s: updating its dynamic labels failed: %s", node.id, error)

    async def _refresh_token(self, node: Node, label: Label) -> Ready | Lost:
        expires, issued = token_times(node)
        now = time.time()
        if not needs_token(expires, issued, now):
            return Ready()
        try:
            access = await self._cluster.creator.create_token(
                node.external_id or "", label.launch.access_token
            )
        except KubernetesError as error:
            return Lost(f"it got no fresh token: {describe(error)}")
        return Ready(
            fields=_with_token(node, access.token),
            driver_data={"token_expires": access.expires, "token_issued": now},
        )

    async def changed(self, external_id: str, timeout: float) -> bool:
        """Wait for an event about the namespace or its pods."""
        return await self._cluster.changed(external_id, timeout)

    async def delete(self, node: Node, grace: float) -> None:
        """Delete the pods, then the namespace; wait for what the node's slot depends on."""
        name, deleter = node.external_id or "", self._cluster.deleter
        await deleter.delete_node(name, grace)
        await (deleter.pods_gone(name) if ends_with_pods(node) else deleter.namespace_gone(name))

    # --- what is there ------------------------------------------------------------------------

    async def list_owned(self) -> tuple[Owned, ...]:
        """The namespaces of the deployment, from the API server."""
        return tuple(map(self._owned, await self._cluster.reader.list_namespaces()))

    def _owned(self, namespace: Namespace) -> Owned:
        mine = valid_label_value(self.provider.name)
        return Owned(
            external_id=namespace.name,
            uid=namespace.uid,
            node_id=namespace.labels.get(NODE_ID_LABEL, ""),
            is_of_provider=namespace.labels.get(PROVIDER_LABEL) == mine,
            deleting=namespace.deleting,
            deleted_at=namespace.deleted_at,
        )

    async def delete_owned(self, external_id: str, grace: float) -> None:
        """Delete a namespace with its pods; returns when the deletion is accepted."""
        await self._cluster.deleter.delete_node(external_id, grace)

    async def blockers(self, external_id: str) -> tuple[str, ...]:
        """The conditions of a namespace that stays Terminating, or why they are unknown."""
        try:
            return tuple(await self._cluster.reader.namespace_blockers(external_id))
        except KubernetesError as error:
            return (describe(error),)

    def count_terminating(self) -> int:
        """How many namespaces are Terminating, by the watch."""
        if not self._cluster.in_sync:
            return 0
        return sum(namespace.deleting for namespace in self._cluster.namespaces())


def _why_unusable(
    node: Node, namespace: Namespace | None, pods: tuple[Pod, ...], launch: LaunchSettings
) -> str | None:
    if namespace is None or namespace.deleting:
        return "its namespace was deleted by somebody else"
    if driver_data_of(node).get("type") == LabelType.NAMESPACE.value:
        return None
    return diagnosis.why_unusable(pods, launch, replicas_of(node))


def _with_token(node: Node, token: str) -> dict[str, Any]:
    connection = node.extra.get("connection_port")
    if not isinstance(connection, dict):
        return {}
    fresh = {**connection, "token": token}
    return {"connection_port": fresh, "ssh_port": fresh}


class KubernetesDriverFactory:
    """Creates the drivers of ``driver: kubernetes``."""

    def create(self, provider: Provider, deployment: str) -> KubernetesDriver:
        """The driver of a provider; must be called with an event loop running."""
        return KubernetesDriver(provider, deployment)

    def obstacle(self, context: str | None) -> str | None:
        """Why kube/config does not allow to connect to a context; None where it does."""
        if context is None:
            return None
        try:
            known = kubeconfig.contexts(os.environ)
        except ConfigError as error:
            return str(error)
        if known is None:
            return f"no kube/config with context {context} was found"
        return None if context in known else f"kube/config has no context {context}"
