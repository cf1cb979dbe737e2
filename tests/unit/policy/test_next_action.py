"""What a pool's queue does next, case by case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nodepool_k8s.drivers.outcomes import Health
from nodepool_k8s.model import MIN_READY, Node, NodeRequest, NodeState, RequestState, Resources
from nodepool_k8s.policy.next_action import (
    Action,
    AtPoolQuota,
    AtTenantQuota,
    ClaimRequest,
    DeclineRequest,
    Idle,
    Park,
    QueueView,
    Quota,
    RemoveSpare,
    Skip,
    Wait,
    WaitsForBackend,
    WaitsForBackendQuota,
    WaitsForLaunchSlot,
    WaitsForQuota,
    is_away,
    next_action,
    patient_until,
)

REQUEST = NodeRequest("200-0000000001", RequestState.REQUESTED, node_types=("pod",))
SPARE_REQUEST = replace(REQUEST, requestor=MIN_READY)
ONE = Resources.of(instances=1)
NODE = Node("0000000007", NodeState.READY, ("pod",), "local", "main", claimed=ONE)
DECLINE = DeclineRequest(REQUEST, "no pool has label nonesuch")

FULL = Quota({"instances": 2000}, Resources.of(instances=2), ONE)
QUOTA = WaitsForQuota(FULL)
NOTHING_UNUSED = AtPoolQuota(FULL, Resources(), ())
ONE_UNUSED = AtPoolQuota(FULL, Resources(), (NODE,))
ONE_LEAVING = AtPoolQuota(FULL, ONE, (NODE,))
OTHER_TENANT = AtTenantQuota(FULL)

IN_SYNC = Health(True, None)
CONNECTING = Health(False, 100.0)
LOST = Health(True, 100.0)
BACKEND = Wait(WaitsForBackend("local"))
SLOT = Wait(WaitsForLaunchSlot(3))


def view(**fields: Any) -> QueueView:
    return replace(QueueView("local", IN_SYNC, 100.0, request=REQUEST, ready=(None,)), **fields)


@pytest.mark.parametrize(
    ("fields", "action"),
    [
        # 6: a decline comes first, whatever the backend and the queue say.
        ({"decline": DECLINE, "request": None}, DECLINE),
        ({"decline": DECLINE, "health": CONNECTING}, DECLINE),
        # 7
        ({"request": None, "ready": ()}, Idle()),
        ({"request": None, "ready": (), "health": CONNECTING}, Idle()),
        # 8: even where no launch is needed.
        ({"health": CONNECTING}, BACKEND),
        ({"health": CONNECTING, "ready": (NODE,)}, BACKEND),
        ({"health": LOST, "now": 103.0, "ready": (NODE,)}, BACKEND),
        ({"health": LOST, "now": 103.0, "backend_refuses": True}, BACKEND),
        ({"health": LOST, "now": 102.9}, ClaimRequest(REQUEST, (None,))),
        # 9, before 10
        ({"backend_refuses": True}, Wait(WaitsForBackendQuota())),
        ({"backend_refuses": True, "slots_full": True}, Wait(WaitsForBackendQuota())),
        ({"backend_refuses": True, "ready": (NODE, None)}, Wait(WaitsForBackendQuota())),
        # 10
        ({"slots_full": True, "launching": 3}, SLOT),
        # 11
        ({}, ClaimRequest(REQUEST, (None,))),
        ({"ready": (NODE,)}, ClaimRequest(REQUEST, (NODE,))),
        ({"ready": (NODE,), "backend_refuses": True}, ClaimRequest(REQUEST, (NODE,))),
        ({"ready": (NODE,), "slots_full": True}, ClaimRequest(REQUEST, (NODE,))),
    ],
)
def test_before_a_claim(fields: dict[str, Any], action: Action) -> None:
    assert next_action(view(**fields)) == action


@pytest.mark.parametrize(
    ("fields", "action"),
    [
        # 1
        ({"in_queue": False}, Skip()),
        # 2
        ({"at_quota": OTHER_TENANT}, Park(REQUEST, QUOTA)),
        ({"at_quota": OTHER_TENANT, "request": SPARE_REQUEST}, Park(SPARE_REQUEST, QUOTA)),
        # 3: a spare node is not worth the removal of another one.
        (
            {"at_quota": ONE_UNUSED, "request": SPARE_REQUEST},
            DeclineRequest(SPARE_REQUEST, f"no room for a spare node: {QUOTA}"),
        ),
        # 4
        ({"at_quota": ONE_UNUSED}, RemoveSpare(NODE, QUOTA)),
        # 5
        ({"at_quota": NOTHING_UNUSED}, Wait(QUOTA)),
        ({"at_quota": ONE_LEAVING}, Wait(QUOTA)),
        # What has changed since the claim began is for the next one.
        ({"at_quota": NOTHING_UNUSED, "decline": DECLINE}, Wait(QUOTA)),
        ({"at_quota": NOTHING_UNUSED, "health": CONNECTING}, Wait(QUOTA)),
        ({"at_quota": NOTHING_UNUSED, "slots_full": True}, Wait(QUOTA)),
    ],
)
def test_without_room(fields: dict[str, Any], action: Action) -> None:
    assert next_action(view(**fields)) == action


@pytest.mark.parametrize(
    ("reason", "text", "pauses"),
    [
        (WaitsForBackend("local"), "the cluster of provider local", False),
        (WaitsForBackendQuota(), "a ResourceQuota of the cluster", True),
        (WaitsForLaunchSlot(3), "max-concurrency: 3 launches under way", False),
        (QUOTA, "quota: 2 of 2 instances in use, 1 needed", True),
    ],
)
def test_reasons_to_wait(reason: WaitsForBackend, text: str, pauses: bool) -> None:
    assert (str(reason), reason.pauses) == (text, pauses)


@pytest.mark.parametrize(("health", "until"), [(IN_SYNC, None), (CONNECTING, 105.0), (LOST, 103.0)])
def test_others_wait_for_a_backend_for_a_moment(health: Health, until: float | None) -> None:
    assert patient_until(health) == until
    assert not is_away(health, 102.9)
    assert is_away(health, 105.0) == (until is not None)
