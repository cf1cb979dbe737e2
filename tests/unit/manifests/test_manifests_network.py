"""Ports, Services and policies."""

from typing import Any

import pytest

from nodepool_k8s.config.settings import Network, ServicePort
from nodepool_k8s.manifests import network
from nodepool_k8s.manifests.object_labels import Manifest

METADATA: Manifest = {"name": "web", "labels": {}}
SELECTOR: Manifest = {"node": "1"}


def test_nothing_is_made_where_nothing_is_asked_for() -> None:
    assert network.container_ports(Network()) == []
    assert network.service(Network(), SELECTOR, METADATA) is None
    assert network.policy(Network(), METADATA) is None


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        (
            {
                "service_type": "NodePort",
                "service_ports": (ServicePort(80, 8080), ServicePort(443, 443)),
            },
            {
                "type": "NodePort",
                "selector": SELECTOR,
                "ports": [
                    {"name": "port-80", "port": 80, "targetPort": 8080},
                    {"name": "port-443", "port": 443, "targetPort": 443},
                ],
            },
        ),
        (
            {"service_type": "ExternalName", "external_name": "db.example.org"},
            {"type": "ExternalName", "externalName": "db.example.org"},
        ),
    ],
)
def test_a_service(options: dict[str, Any], spec: Manifest) -> None:
    assert network.service(Network(**options), SELECTOR, METADATA) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": METADATA,
        "spec": spec,
    }


def test_the_containers_ports() -> None:
    ports = network.container_ports(Network(ports=(80, 8080)))
    assert ports == [{"containerPort": 80}, {"containerPort": 8080}]


def test_a_policy() -> None:
    spec = {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert network.policy(Network(policy=spec), METADATA) == {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": METADATA,
        "spec": spec,
    }
