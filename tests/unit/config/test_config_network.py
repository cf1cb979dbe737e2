"""Ports, the Service in front of a node, and who may talk to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nodepool_k8s.config.settings import Network, ServicePort

if TYPE_CHECKING:
    from tests.unit.config.conftest import Site

LABEL = "providers[0].pools[0].labels[0]"
IMAGE = "image: i\n"


def network(site: Site, lines: str) -> Network:
    (label,) = site.label(IMAGE + lines).pools[0].labels.values()
    return label.network


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", Network()),
        ("port: 8080", Network(ports=(8080,))),
        (
            "service_ports: [{port: 80, target_port: 8080}, {port: 443}]",
            Network(
                ports=(8080, 443),
                service_type="ClusterIP",
                service_ports=(ServicePort(80, 8080), ServicePort(443, 443)),
            ),
        ),
        (
            "port: 80\nservice-type: NodePort",
            Network(ports=(80,), service_type="NodePort", service_ports=(ServicePort(80, 80),)),
        ),
        (
            "port: 9\nservice-type: LoadBalancer\nservice-ports: [{port: 80, target-port: 9}]",
            Network(ports=(9,), service_type="LoadBalancer", service_ports=(ServicePort(80, 9),)),
        ),
        (
            "service_type: ExternalName\nexternal_name: db.example.org",
            Network(service_type="ExternalName", external_name="db.example.org"),
        ),
    ],
)
def test_ports_and_the_service(site: Site, lines: str, expected: Network) -> None:
    assert network(site, lines) == expected


@pytest.mark.parametrize(
    ("lines", "spec"),
    [
        ("none", None),
        ("deny-ingress", {"podSelector": {}, "policyTypes": ["Ingress"]}),
        ("deny-all", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
        ("{}", {"podSelector": {}}),
        (
            "{ingress: [{from: [{podSelector: {}}], ports: [{port: 80}, {port: http}]}]}",
            {
                "podSelector": {},
                "ingress": [
                    {"from": [{"podSelector": {}}], "ports": [{"port": 80}, {"port": "http"}]}
                ],
            },
        ),
        (
            "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}",
            {
                "podSelector": {},
                "egress": [
                    {"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}
                ],
            },
        ),
    ],
)
@pytest.mark.parametrize("kind", ["pod", "namespace"])
def test_who_may_talk_to_it(site: Site, lines: str, spec: Any, kind: str) -> None:
    given = f"network-policy: {lines}"
    settings = site.load(site.text(IMAGE + given if kind == "pod" else given, kind=kind))
    (label,) = settings.pools[0].labels.values()
    assert label.network == Network(policy=spec)
    assert settings.notices == ()


@pytest.mark.parametrize("kind", ["pod", "namespace"])
def test_a_pools_policy_is_for_labels_that_have_none(site: Site, kind: str) -> None:
    for own, types in (("", ["Ingress"]), ("network-policy: none", None)):
        lines = (IMAGE if kind == "pod" else "") + own
        text = site.text(lines, kind=kind).replace(
            "        labels:\n",
            "        default-label-network-policy: deny-ingress\n        labels:\n",
            1,
        )
        (label,) = site.load(text).pools[0].labels.values()
        policy = label.network.policy
        assert (policy and policy["policyTypes"]) == types


def rule(peer: str) -> str:
    return f"network-policy: {{ingress: [{{from: [{peer}]}}]}}"


PEER = ".network-policy.ingress[0].from[0]"

WRONG = [
    ("port: 0", ".port", "found 0, expected a port number from 1 to 65535"),
    ("port: '80'", ".port", "write 80 without quotes"),
    ("service-ports: {port: 80}", ".service-ports", "begin each entry with '-'"),
    ("service-ports: [80]", ".service-ports[0]", "found 80, expected a mapping with port and"),
    ("service-ports: [{target_port: 80}]", ".service-ports[0].port", "is missing, expected a port"),
    (
        "service-ports: [{port: 80, target_port: http}]",
        ".service-ports[0].target_port",
        "found 'http', expected a port number",
    ),
    (
        "service-ports: [{port: 80}, {port: 80, target-port: 90}]",
        ".service-ports[1].port",
        "found 80, expected a port that the Service does not offer yet; the first is",
    ),
    ("service-type: nodeport", ".service-type", "did you mean 'NodePort'?"),
    ("service-type: NodePort", ".service-type", "needs service-ports, or port, beside it"),
    ("service-type: ExternalName", ".service-type", "ExternalName needs external-name beside it"),
    ("external-name: a.b", ".external-name", "has no effect without service-type ExternalName"),
    (
        "external-name: a.b\nport: 80\nservice-type: ClusterIP",
        ".external-name",
        "has no effect without service-type ExternalName",
    ),
    (
        "service-type: ExternalName\nexternal-name: https://a.b",
        ".external-name",
        "found 'https://a.b', expected the DNS name of a host",
    ),
    ("network-policy: deny", ".network-policy", "did you mean 'deny-all'?"),
    ("network-policy: [deny-all]", ".network-policy", "expected none, deny-ingress, deny-all, or"),
    ("network-policy: {ingres: []}", ".network-policy.ingres", "did you mean 'ingress'?"),
    (
        "network-policy: {policyTypes: [ingress]}",
        ".network-policy.policyTypes[0]",
        "did you mean 'Ingress'?",
    ),
    ("network-policy: {podSelector: a=b}", ".network-policy.podSelector", "a Kubernetes label sel"),
    (rule("{}"), PEER, "expected podSelector, namespaceSelector or both; or ipBlock alone"),
    (rule("{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}"), PEER, "or ipBlock alone"),
    (rule("{ipBlock: {}}"), PEER + ".ipBlock.cidr", "is missing, expected an address range"),
    (rule("{ipBlock: {cidr: 10.0.0.1}}"), PEER + ".ipBlock.cidr", "an address range like 10.0.0.0"),
    (rule("{ipBlock: {cidr: 10.0.0.1/8}}"), PEER + ".ipBlock.cidr", "an address range like"),
    (
        "network-policy: {egress: [{ports: [{port: 80, protocol: tcp}]}]}",
        ".network-policy.egress[0].ports[0].protocol",
        "did you mean 'TCP'?",
    ),
]


@pytest.mark.parametrize(("lines", "path", "message"), WRONG)
def test_what_leads_nowhere_is_refused(site: Site, lines: str, path: str, message: str) -> None:
    found = site.problems(site.text(IMAGE + lines))
    assert [problem.path for problem in found] == [LABEL + path]
    assert message in found[0].message
    key = path.strip(".").split(".")[0].split("[")[0]
    numbered = enumerate((IMAGE + lines).splitlines(), 15)
    assert found[0].line == next(n for n, line in numbered if line.startswith(key))


def test_a_service_is_named_as_its_label(site: Site) -> None:
    text = site.text(IMAGE + "service-ports: [{port: 80}]", name="3d").replace("small", "3d", 1)
    (problem,) = site.problems(text)
    assert problem.path == f"{LABEL}.name"
    assert "because the Service is named as the label" in problem.message
