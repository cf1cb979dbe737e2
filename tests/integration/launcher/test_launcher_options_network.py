"""Services and network policies in a node's namespace, as the API server stored them."""

from typing import Any

import pytest
from harness.api import Object

from tests.integration.launcher.test_launcher_labels import container, stored
from tests.support.admin import Admin
from tests.support.launchers import Launchers
from tests.support.site import SiteMaker, pod_label
from tests.support.waiting import eventually
from tests.support.zuul import Zuul

pytestmark = pytest.mark.integration

POLICIES = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"
SERVICES = "/api/v1/namespaces/{}/services"


async def listed(admin: Admin, path: str, namespace: Object) -> list[Object]:
    found = await admin.call("GET", path.format(namespace["metadata"]["name"]))
    items: list[Object] = found["items"]
    return items


async def test_services_and_policies_are_in_the_nodes_namespace(
    make_site: SiteMaker, launchers: Launchers, zuul: Zuul, admin: Admin
) -> None:
    spec = {
        "podSelector": {},
        "ingress": [
            {
                "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                "ports": [{"protocol": "TCP", "port": 8080}],
            }
        ],
        "policyTypes": ["Ingress"],
    }
    labels = [
        pod_label(
            "web",
            service_ports=[{"port": 80, "target_port": 80}, {"port": 443, "target_port": 8443}],
            service_type="NodePort",
            network_policy="deny-all",
        ),
        pod_label("plain", port=9000, network_policy="none"),
        pod_label("offered", port=9000, service_type="ClusterIP"),
        pod_label(
            "outside",
            service_type="ExternalName",
            external_name="db.example.org",
            network_policy=spec,
        ),
    ]
    pool = {"default-label-network-policy": "deny-ingress"}
    await launchers.start(make_site(*labels, pool=pool))
    found = await stored(zuul, admin, await zuul.submit(*(label["name"] for label in labels)))

    policies = {
        name: [policy["spec"] for policy in await listed(admin, POLICIES, namespace)]
        for name, (_, namespace, _) in found.items()
    }
    deny = {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert policies == {
        "web": [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}],
        "plain": [],
        "offered": [deny],
        "outside": [spec],
    }

    services = {
        name: [service_of(each) for each in await listed(admin, SERVICES, namespace)]
        for name, (_, namespace, _) in found.items()
    }
    assert services == {
        "web": [("web", "NodePort", [("port-80", 80, 80), ("port-443", 443, 8443)], None)],
        "plain": [],
        "offered": [("offered", "ClusterIP", [("port-9000", 9000, 9000)], None)],
        "outside": [("outside", "ExternalName", [], "db.example.org")],
    }
    ports = {
        name: [port["containerPort"] for port in container(pod).get("ports", ())]
        for name, (pod, _, _) in found.items()
    }
    assert ports == {"web": [80, 8443], "plain": [9000], "offered": [9000], "outside": []}

    pod, namespace, _ = found["web"]
    address = pod["status"]["podIP"]

    async def leads_to_the_pod() -> bool:
        ends = [
            (endpoint["addresses"], sorted(port["port"] for port in each["ports"]))
            for each in await listed(admin, SLICES, namespace)
            for endpoint in each["endpoints"] or ()
        ]
        return ends == [([address], [80, 8443])]

    await eventually(leads_to_the_pod, "the Service has the pod behind it")


def service_of(service: Object) -> tuple[Any, ...]:
    spec = service["spec"]
    ports = [(port["name"], port["port"], port["targetPort"]) for port in spec.get("ports", ())]
    return service["metadata"]["name"], spec["type"], ports, spec.get("externalName")
