"""What a pool's queue does next: one function of one view. Pure.

``next_action`` goes through these cases in order; the first that applies decides.

After the claim's transaction found a ledger full (``view.at_quota``):

1. The request left the queue meanwhile: ``Skip``.
2. The ledger is a tenant's: ``Park`` the request; the next one may fit.
3. The ledger is the pool's, and the request asks for a spare node: ``DeclineRequest``. Other
   requests would have to wait for it.
4. Deleting an unused ready node helps: ``RemoveSpare``; the pool waits for quota meanwhile.
5. Otherwise: ``Wait`` for quota, which pauses the pool.

Before a claim:

6. A decline is pending: ``DeclineRequest``.
7. The queue is empty, or all of its requests are parked: ``Idle``.
8. The backend was never in sync, or has not answered for too long: ``Wait`` for it. The wait
   itself does not pause the pool; ``is_away`` does, whether a request waits or not.
9. A node has to be launched, and the backend's own quota refuses launches: ``Wait``, paused.
10. A node has to be launched, and no launch slot is free: ``Wait``. The pool does not pause:
    it has room, and a slot becomes free soon.
11. Otherwise: ``ClaimRequest``.

Ready nodes for all labels of a request need no launch, so that 9 and 10 do not apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from nodepool_k8s.drivers.outcomes import Health
from nodepool_k8s.model import Node, NodeRequest, Resources
from nodepool_k8s.policy import quota

CONNECTING_SECONDS = 5.0
"""How long pools of lower priority wait for a pool that is connecting to its backend."""

LOST_SECONDS = 3.0
"""How long a pool goes on, and others wait for it, after it lost contact with its backend.
A watch that is cut is back within that."""


# --- the view ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quota:
    """A limited ledger that has no room for the request: amounts in thousandths."""

    limits: Mapping[str, int]
    used: Resources
    wanted: Resources
    """What the request needs of it."""


@dataclass(frozen=True, slots=True)
class AtTenantQuota:
    """The ledger of the request's tenant is full."""

    quota: Quota


@dataclass(frozen=True, slots=True)
class AtPoolQuota:
    """The pool's ledger is full."""

    quota: Quota
    leaving: Resources
    """The part of what is used that is being deleted already."""
    unused: Sequence[Node]
    """The pool's unused ready nodes that the request does not get, the oldest first."""


@dataclass(frozen=True, slots=True)
class QueueView:
    """All that a queue decides from."""

    provider: str
    health: Health
    """The provider's backend's."""
    now: float
    """By the clock of ``health``."""
    decline: DeclineRequest | None = None
    """The first of the pending declines."""
    request: NodeRequest | None = None
    """The request at the head of the queue."""
    ready: Sequence[Node | None] = ()
    """For each of its labels a ready node, or None: one has to be launched."""
    backend_refuses: bool = False
    """Whether the backend's own quota refuses a launch of the pool."""
    launching: int = 0
    """Launches of the provider that are under way."""
    slots_full: bool = False
    """Whether that is ``max-concurrency``."""
    at_quota: AtTenantQuota | AtPoolQuota | None = None
    """The ledger without room, which only the claim's transaction knows."""
    in_queue: bool = True
    """Whether the request is still in the queue."""


# --- reasons to wait ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WaitsForBackend:
    """The backend has to answer first."""

    provider: str
    pauses: ClassVar = False

    def __str__(self) -> str:
        return f"the cluster of provider {self.provider}"


@dataclass(frozen=True, slots=True)
class WaitsForBackendQuota:
    """The backend's own quota refuses what is being launched."""

    pauses: ClassVar = True

    def __str__(self) -> str:
        return "a ResourceQuota of the cluster"


@dataclass(frozen=True, slots=True)
class WaitsForLaunchSlot:
    """As many launches are under way as ``max-concurrency`` allows."""

    launching: int
    pauses: ClassVar = False

    def __str__(self) -> str:
        return f"max-concurrency: {self.launching} launches under way"


@dataclass(frozen=True, slots=True)
class WaitsForQuota:
    """A ledger has no room."""

    quota: Quota
    pauses: ClassVar = True

    def __str__(self) -> str:
        return quota.waits_for(self.quota.limits, self.quota.used, self.quota.wanted)


WaitReason: TypeAlias = WaitsForBackend | WaitsForBackendQuota | WaitsForLaunchSlot | WaitsForQuota
"""``str()`` says it to people; ``pauses``: whether other pools stop waiting for this one."""


# --- actions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Claim the request, with these ready nodes."""

    request: NodeRequest
    ready: Sequence[Node | None]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be claimed until something changes."""

    reason: WaitReason


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Park:
    """Let the requests behind it go first, until the tenant's ledger has room."""

    request: NodeRequest
    reason: WaitsForQuota


@dataclass(frozen=True, slots=True)
class DeclineRequest:
    """The pool does not serve the request."""

    request: NodeRequest
    reason: str


@dataclass(frozen=True, slots=True)
class RemoveSpare:
    """Delete an unused ready node, and wait for the room that it leaves."""

    node: Node
    reason: WaitsForQuota


@dataclass(frozen=True, slots=True)
class Skip:
    """Go on with the next request."""


Action: TypeAlias = ClaimRequest | Wait | Idle | Park | DeclineRequest | RemoveSpare | Skip


# --- the decision ------------------------------------------------------------------------------


def next_action(view: QueueView) -> Action:
    """What the queue does next: see the cases above."""
    if not view.in_queue:
        return Skip()
    if view.request is not None and view.at_quota is not None:
        return _without_room(view.request, view.at_quota)
    if view.decline is not None:
        return view.decline
    if view.request is None:
        return Idle()
    if not view.health.in_sync or is_away(view.health, view.now):
        return Wait(WaitsForBackend(view.provider))
    if None in view.ready:
        if view.backend_refuses:
            return Wait(WaitsForBackendQuota())
        if view.slots_full:
            return Wait(WaitsForLaunchSlot(view.launching))
    return ClaimRequest(view.request, view.ready)


def _without_room(request: NodeRequest, at_quota: AtTenantQuota | AtPoolQuota) -> Action:
    reason = WaitsForQuota(at_quota.quota)
    if isinstance(at_quota, AtTenantQuota):
        return Park(request, reason)
    if request.for_spare:
        return DeclineRequest(request, f"no room for a spare node: {reason}")
    full = at_quota.quota
    spare = quota.spare_to_remove(
        full.limits, full.used, at_quota.leaving, full.wanted, at_quota.unused
    )
    return Wait(reason) if spare is None else RemoveSpare(spare, reason)


# --- a backend that does not answer --------------------------------------------------------


def patient_until(health: Health) -> float | None:
    """Until when a backend that does not answer is waited for; None: it answers."""
    if health.out_of_touch_since is None:
        return None
    return health.out_of_touch_since + (LOST_SECONDS if health.in_sync else CONNECTING_SECONDS)


def is_away(health: Health, now: float) -> bool:
    """Whether a backend has not answered for so long that its pools pause."""
    until = patient_until(health)
    return until is not None and now >= until
