"""A node whose lock we hold: the launcher while it works on it, a requestor while it uses it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from nodepool_k8s.model import Node, NodeState
from nodepool_k8s.policy.lifecycle import move_node


@dataclass(frozen=True, slots=True)
class HeldNode:
    """A node with every key of its record; ``lock`` is the path of our child of its lock."""

    node: Node
    lock: str

    def evolve(self, **changes: object) -> HeldNode:
        """A copy with fields of the node changed."""
        return dataclasses.replace(
            self,
            node=dataclasses.replace(self.node, **changes),  # type: ignore[arg-type]
        )

    def move_to(self, state: NodeState, now: float, **changes: object) -> HeldNode:
        """A copy with the node in its next state. Raises IllegalMove."""
        return dataclasses.replace(self, node=move_node(self.node, state, now, **changes))
