"""Hands a ready node to the request that claimed it; the counterpart of ``launch``."""

from __future__ import annotations

import logging

from nodepool_k8s.config.settings import Label
from nodepool_k8s.drivers.outcomes import Lost
from nodepool_k8s.launcher.launch_context import LaunchContext
from nodepool_k8s.logs import bind_log_context
from nodepool_k8s.model import NodeRequest
from nodepool_k8s.znodes.nodes import with_driver_data
from nodepool_k8s.zookeeper.held_node import HeldNode
from nodepool_k8s.zookeeper.store import NodeTaken

log = logging.getLogger(__name__)


class Reuse:
    """The reuse of one ready node."""

    launched = False

    def __init__(
        self, context: LaunchContext, label: Label, held: HeldNode, request: NodeRequest
    ) -> None:
        self.held = held
        self.written = True
        """Whether ``held`` is written to ZooKeeper."""
        self.failure = ""
        self.waits_for = "its access token"
        self.step = "reuse"
        self._context = context
        self._label = label
        self._request = request

    async def run(self) -> None:
        """Prepare the node for the request. Raises NodeTaken where it is not usable."""
        node = self.held.node
        bind_log_context(node=node.id, label=self._label.name)
        ready = await self._context.driver.prepare_reuse(node, self._label, self._request)
        if isinstance(ready, Lost):
            self.failure = ready.reason
            raise NodeTaken(node.id)
        if ready.fields or ready.driver_data:
            self.held = self.held.evolve(
                extra={**node.extra, **ready.fields},
                driver_data=with_driver_data(node, ready.driver_data),
            )
            self.written = False
        log.info("Node %s was ready", node.id)

    def is_ready(self) -> bool:
        """Whether it can still be handed over."""
        return self._context.is_usable(self.held.node)

    async def write(self) -> None:
        """Write the node if it changed."""
        if not self.written:
            self.held = await self._context.store.write_node(self.held)
            self.written = True
