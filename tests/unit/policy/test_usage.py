"""What a label's node counts."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodepool_k8s.config.settings import Label, Volumes
from nodepool_k8s.model import LabelType
from nodepool_k8s.policy.usage import pod_requests, usage


def pod_label(**options: Any) -> Label:
    return Label(name="fedora", type=LabelType.POD, **options)


def container(requests: Any = None, limits: Any = None, **rest: Any) -> dict[str, Any]:
    return {"name": "c", "resources": {"requests": requests, "limits": limits}, **rest}


def sidecar(requests: Any) -> dict[str, Any]:
    return container(requests, restartPolicy="Always")


def test_a_namespace_counts_one_instance() -> None:
    label = Label(name="ns", type=LabelType.NAMESPACE, cpu=4, memory=1024)
    assert usage(label).numbers() == {"instances": 1}


def test_a_pod_counts_what_it_asks_for() -> None:
    label = pod_label(
        cpu=0.5,
        memory=512,
        storage=100,
        gpu=2,
        gpu_resource="nvidia.com/gpu",
        extra_resources={"licences": 3},
        cpu_limit=8,
    )
    assert usage(label).numbers() == {
        "instances": 1,
        "cores": 0.5,
        "ram": 512,
        "ephemeral-storage": 100,
        "nvidia.com/gpu": 2,
        "licences": 3,
    }


@pytest.mark.parametrize(
    ("options", "volumes", "ram"),
    [
        ({}, Volumes(memory=64), 64),
        ({"memory": 512}, Volumes(memory=64), 576),
        ({"memory": 512, "memory_limit": 512}, Volumes(memory=64), 512),
        ({"memory": 512, "memory_limit": 1024}, Volumes(memory=64), 576),
        ({"memory": 512, "memory_limit": 1024}, Volumes(memory=900), 1024),
        ({"memory": 512, "memory_limit": 1024}, Volumes(unbounded_memory=True), 1024),
        ({"memory": 512}, Volumes(unbounded_memory=True), 512),
    ],
)
def test_memory_volumes_add_to_the_memory_up_to_its_limit(
    options: dict[str, Any], volumes: Volumes, ram: int
) -> None:
    assert usage(pod_label(**options, volumes=volumes)).numbers()["ram"] == ram


def test_a_pod_that_asks_for_nothing_counts_one_instance() -> None:
    assert usage(pod_label(gpu=1)).numbers() == {"instances": 1}


@pytest.mark.parametrize(
    ("spec", "numbers"),
    [
        ({}, {}),
        (
            {"containers": [container({"cpu": "500m"}), container({"cpu": 1, "memory": "1Gi"})]},
            {"cores": 1.5, "ram": 1024},
        ),
        # A limit stands in for a request that is missing, name by name.
        (
            {"containers": [container({"cpu": "1"}, {"cpu": "4", "memory": "256Mi"})]},
            {"cores": 1, "ram": 256},
        ),
        # Init containers run one after the other, and before the rest.
        (
            {
                "containers": [container({"cpu": "1"}), container({"cpu": "1"})],
                "initContainers": [container({"cpu": "3"}), container({"cpu": "2"})],
            },
            {"cores": 3},
        ),
        # A sidecar stays: it adds to the containers, and to the init containers after it.
        (
            {
                "containers": [container({"cpu": "1"})],
                "initContainers": [
                    container({"cpu": "2"}),
                    sidecar({"cpu": "1"}),
                    container({"cpu": "2"}),
                ],
            },
            {"cores": 3},
        ),
        (
            {
                "containers": [container({"cpu": "4"})],
                "initContainers": [sidecar({"cpu": "500m"})],
            },
            {"cores": 4.5},
        ),
        (
            {"containers": [container({"cpu": "1"})], "overhead": {"cpu": "250m", "memory": "1M"}},
            {"cores": 1.25, "ram": 1},
        ),
        # What the pod asks for as a whole replaces the sum; its limits are the last resort.
        (
            {
                "containers": [container({"cpu": "1", "memory": "64Mi"})],
                "resources": {"requests": {"cpu": "4"}, "limits": {"cpu": "8", "memory": "1Gi"}},
            },
            {"cores": 4, "ram": 64},
        ),
        (
            {"containers": [container()], "resources": {"limits": {"memory": "1Gi"}}},
            {"ram": 1024},
        ),
        (
            {"containers": [container({"nvidia.com/gpu": 1, "ephemeral-storage": "1Gi"})]},
            {"nvidia.com/gpu": 1, "ephemeral-storage": 1074},
        ),
        # Rounded up: a node must never count less than it takes.
        (
            {"containers": [container({"memory": "1", "cpu": "100u"})]},
            {"ram": 1, "cores": 0.001},
        ),
        # The API server refuses these; here they only must not raise.
        ({"containers": [container({"cpu": "many"}), "no container", None]}, {}),
        ({"containers": "none", "initContainers": 3, "overhead": [], "resources": ""}, {}),
    ],
)
def test_a_raw_spec_counts_as_kubernetes_counts(
    spec: dict[str, Any], numbers: dict[str, float]
) -> None:
    assert usage(pod_label(spec=spec)).numbers() == {"instances": 1, **numbers}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["containers", "initContainers", "resources", "requests", "cpu"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["containers", "initContainers", "resources"]), JSON))
def test_no_spec_raises(spec: dict[str, Any]) -> None:
    pod_requests(spec)


def test_replicas_count_as_that_many() -> None:
    one = pod_label(cpu=0.5, memory=10, gpu=1, gpu_resource="g", extra_resources={"licence": 2})
    three = dataclasses.replace(one, replicas=3)
    assert usage(three).numbers() == {
        name: amount * 3 for name, amount in usage(one).numbers().items()
    }
    assert usage(three).numbers()["instances"] == 3
    assert usage(pod_label(replicas=2)).numbers() == {"instances": 2}
