"""A ready node that is handed out: is it still there, and made ready for its new owner.

Watches lag, so what they show decides only against handing a node out; before a ready
node is deleted for what they show, the API server is asked (``why_lost``).
"""

from __future__ import annotations

import logging
import time
from typing import Any

from nodepool_k8s.config.settings import Label, LaunchSettings
from nodepool_k8s.errors import KubernetesError, describe
from nodepool_k8s.kubernetes.cluster import Cluster
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.logs import bind_log_context
from nodepool_k8s.manifests import reuse_patch, valid_dynamic_labels
from nodepool_k8s.model import LabelType, Namespace, Node, NodeRequest, Pod
from nodepool_k8s.policy import diagnosis, upkeep
from nodepool_k8s.policy.dynamic_labels import dynamic_labels
from nodepool_k8s.znodes.nodes import driver_data_of, replicas_of, token_times, with_driver_data
from nodepool_k8s.zookeeper.store import HeldNode, NodeTaken

log = logging.getLogger(__name__)


def is_usable(cluster: Cluster, node: Node, launch: LaunchSettings) -> bool:
    """Whether a ready node may be handed out, as far as the watches show."""
    return cluster.in_sync and why_unusable(cluster, node, launch) is None


def why_unusable(cluster: Cluster, node: Node, launch: LaunchSettings) -> str | None:
    """Why a ready node may not be handed out, as far as the watches show."""
    name = node.external_id or ""
    return _why(node, cluster.namespace(name), cluster.pods(name), launch)


async def why_lost(cluster: Cluster, node: Node, launch: LaunchSettings) -> str | None:
    """Why a ready node may not be handed out, asked of the API server; raises KubernetesError."""
    name = node.external_id
    if not name:
        return "its record names no namespace"
    return _why(
        node, await cluster.reader.get_namespace(name), await cluster.reader.list_pods(name), launch
    )


def _why(
    node: Node, namespace: Namespace | None, pods: tuple[Pod, ...], launch: LaunchSettings
) -> str | None:
    if namespace is None or namespace.deleting:
        return "its namespace was deleted by somebody else"
    if driver_data_of(node).get("type") == LabelType.NAMESPACE.value:
        return None
    return diagnosis.why_unusable(pods, launch, replicas_of(node))


class Reuse:
    """One ready node on its way to the request that claimed it; the sibling of ``Launch``."""

    launched = False

    def __init__(
        self, site: LaunchContext, label: Label, held: HeldNode, request: NodeRequest
    ) -> None:
        self.held = held
        self.written = True
        """Whether ``held`` stands in ZooKeeper."""
        self.failure = ""
        self.waits_for = "its access token"
        self.step = "reuse"
        self._site = site
        self._label = label
        self._request = request

    async def run(self) -> None:
        """Mark its objects as the request's, and see that its token lasts.

        Raises NodeTaken where the node is not usable any more.
        """
        bind_log_context(node=self.held.node.id, label=self._label.name)
        self._require_usable()
        await self._mark_objects()
        await self._refresh_token()
        log.info("Node %s was ready", self.held.node.id)

    def is_ready(self) -> bool:
        """Whether it can be handed over still."""
        return is_usable(self._site.cluster, self.held.node, self._label.launch)

    async def write(self) -> None:
        """Write the node, where that is due."""
        if not self.written:
            self.held = await self._site.store.write_node(self.held)
            self.written = True

    def _require_usable(self) -> None:
        why = why_unusable(self._site.cluster, self.held.node, self._label.launch)
        if why is not None:
            self.failure = why
            raise NodeTaken(self.held.node.id)

    async def _mark_objects(self) -> None:
        """Put the request's dynamic labels on, and tell autoscalers that it must stay."""
        labels, warnings = dynamic_labels(self._label.dynamic_labels, self._request)
        for warning in warnings:
            log.warning("Label %s: %s", self._label.name, warning)
        cluster, name = self._site.cluster, self.held.node.external_id or ""
        labels = valid_dynamic_labels(labels)
        try:
            if labels:
                await cluster.creator.patch_namespace(
                    name, reuse_patch(self._label, labels, pod=False)
                )
            for pod in cluster.pods(name):
                await cluster.creator.patch_pod(
                    name, pod.name, reuse_patch(self._label, labels, pod=True)
                )
        except KubernetesError as error:
            # A convenience only; whether the node is still there is looked at on its own.
            log.warning("Node %s: its labels stay as they were: %s", self.held.node.id, error)

    async def _refresh_token(self) -> None:
        expires, issued = token_times(self.held.node)
        now = time.time()
        if not upkeep.needs_token(expires, issued, now):
            return
        name = self.held.node.external_id or ""
        try:
            access = await self._site.cluster.creator.create_token(
                name, self._label.launch.access_token
            )
        except KubernetesError as error:
            self.failure = f"it got no fresh token: {describe(error)}"
            raise NodeTaken(self.held.node.id) from error
        node = self.held.node
        fields = with_driver_data(node, token_expires=access.expires, token_issued=now)
        extra = {**node.extra, **_with_token(node, access.token)}
        self.held = self.held.evolve(extra=extra, driver_data=fields)
        self.written = False


def _with_token(node: Node, token: str) -> dict[str, Any]:
    connection = node.extra.get("connection_port")
    if not isinstance(connection, dict):
        return {}
    fresh = {**connection, "token": token}
    return {"connection_port": fresh, "ssh_port": fresh}
