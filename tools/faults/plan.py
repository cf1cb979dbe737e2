"""The plan of a run: numbers, limits, and how long each side may take. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROVIDER = "local"
POOL = "chaos"
LIMITED_TENANT = "limited"
OTHER_TENANT = "unlimited"
LABELS = ("pod", "namespace")
"""One of each kind, named as its kind."""

SESSION_S = 4
"""The launchers' ``zookeeper-timeout``: the least that ZooKeeper agrees to."""
LAUNCH_S = 8
"""The ``launch-timeout``: short, as pods that never start would take most of a run."""
BOUND_S = 30.0
"""How long a launcher may take, beyond its own waits, while everything around it breaks."""
END_S = 180.0
"""How long everything may take to end after the last fault: a minute for waiting requests, and
twice a minute for Kubernetes' namespace controller. After an outage of the API server it retries
only after up to 60 s, and a namespace's node keeps its slot until then."""


@dataclass(frozen=True)
class Limits:
    """What the configuration limits."""

    pool: int = 10
    """``max-servers`` of the one pool."""
    tenant: int = 6
    """``max-servers`` of the tenant that has a limit."""


@dataclass(frozen=True)
class Plan:
    """One run."""

    folder: Path
    launchers: int = 3
    seconds: float = 60.0
    seed: int = 0
    upkeep: float = 5.0
    """Between two passes of each launcher; 60 is what an installed one does."""
    requestors: int = 24
    """Requests under way at a time: more than the limits let in, so that some always wait."""
    fair_share: bool = False
    """Whether tenants take turns in the pool."""
    kinds: tuple[str, ...] = ()
    """Faults; none: every kind."""
