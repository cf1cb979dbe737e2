"""Where a pod may run and what it runs, as its spec says it."""

from __future__ import annotations

from typing import Any

import pytest

from nodepool_k8s.config.settings import Placement, Workload
from nodepool_k8s.manifests import placement, workload

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
ABSENT = {"key": "nvidia.com/gpu.present", "operator": "DoesNotExist"}
ZONE = {"key": "zone", "operator": "In", "values": ["a"]}
FIELD = {"key": "metadata.name", "operator": "In", "values": ["n"]}


def required(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}


def test_nothing_is_said_of_what_is_not_asked_for() -> None:
    assert placement.pod_fields(Placement()) == {}


def test_every_field_of_placement() -> None:
    fields = placement.pod_fields(
        Placement(
            node_selector={"a": "b"},
            tolerations=({"operator": "Exists"},),
            affinity=required({"matchExpressions": [ZONE]}),
            runtime_class="gvisor",
            priority_class="batch",
            scheduler_name="mine",
        )
    )
    assert fields == {
        "nodeSelector": {"a": "b"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": required({"matchExpressions": [ZONE]}),
        "runtimeClassName": "gvisor",
        "priorityClassName": "batch",
        "schedulerName": "mine",
    }


@pytest.mark.parametrize(
    ("affinity", "expected"),
    [
        ({}, required({"matchExpressions": [ABSENT]})),
        (
            required({"matchExpressions": [ZONE]}, {"matchFields": [FIELD]}),
            required(
                {"matchExpressions": [ZONE, ABSENT]},
                {"matchFields": [FIELD], "matchExpressions": [ABSENT]},
            ),
        ),
        ({"podAffinity": {}}, {"podAffinity": {}, **required({"matchExpressions": [ABSENT]})}),
    ],
)
def test_a_pod_without_gpus_avoids_nodes_with_gpus(
    affinity: dict[str, Any], expected: dict[str, Any]
) -> None:
    wanted = Placement(affinity=affinity, without=(ABSENT["key"],))
    for _ in range(2):
        # The settings stay as they are: a second pod's is no longer.
        assert placement.pod_fields(wanted)["affinity"] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Workload(command=("a", "b")), {"command": ["a", "b"]}),
        (Workload(args=("a",)), {"args": ["a"]}),
        (Workload(command=("a",), args=()), {"command": ["a"]}),
        (Workload(command=("a",), working_dir="/w"), {"command": ["a"], "workingDir": "/w"}),
    ],
)
def test_a_command_replaces_the_shell_that_sleeps(
    given: Workload, expected: dict[str, Any]
) -> None:
    assert workload.process(given) == expected


def test_without_a_command_a_shell_sleeps() -> None:
    process = workload.process(Workload(working_dir="/w"))
    assert process["command"] == ["/bin/sh", "-c"]
    assert process["workingDir"] == "/w"


def test_pod_info_is_in_the_environment_unless_turned_off() -> None:
    named = {entry["name"]: entry for entry in workload.environment(Workload())}
    assert list(named) == [
        *("NODEPOOL_WORKLOAD", "NODEPOOL_POD_NAME", "NODEPOOL_POD_NAMESPACE"),
        *("NODEPOOL_POD_ID", "NODEPOOL_NODE_IP"),
    ]
    assert named["NODEPOOL_WORKLOAD"]["value"] == "1"
    assert named["NODEPOOL_POD_ID"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.uid"
    own = Workload(env=(("A", "b"), ("NODEPOOL_POD_ID", "mine")))
    entries = workload.environment(own)
    assert [entry["name"] for entry in entries].count("NODEPOOL_POD_ID") == 1
    assert entries[-2:] == [
        {"name": "A", "value": "b"},
        {"name": "NODEPOOL_POD_ID", "value": "mine"},
    ]
    assert workload.environment(Workload(pod_info_env=False)) == []
