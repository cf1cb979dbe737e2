"""Network access to a node: ``port``, the Service in front of it, and ``network-policy``."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodepool_k8s.config import values
from nodepool_k8s.config.document import Document
from nodepool_k8s.config.freeform import json_value
from nodepool_k8s.config.option import Fields, Option, RawLabel, Topic, fields
from nodepool_k8s.config.problems import InvalidValue, Path
from nodepool_k8s.config.review import Review
from nodepool_k8s.config.sections import ListOf, Section
from nodepool_k8s.names import is_subdomain


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of the node's Service, and the pod's port behind it."""

    port: int
    target_port: int


@dataclass(frozen=True, slots=True)
class Network:
    """Ports of the pod, the Service in front of it, and who may talk to it.

    ``service_type`` is None where there is no Service, ``policy`` where there is no
    NetworkPolicy; it is the policy's spec.
    """

    ports: tuple[int, ...] = ()
    service_type: str | None = None
    service_ports: tuple[ServicePort, ...] = ()
    external_name: str | None = None
    policy: Mapping[str, Any] | None = None


EXTERNAL = "ExternalName"

_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")

_PORT = values.port()

SERVICE_PORT = Section(
    "a mapping with port and target-port",
    {"port": _PORT, "target-port": _PORT},
    required=("port",),
    snake_case=True,
)


def _selector(value: Any) -> Any:
    if not isinstance(value, dict):
        raise InvalidValue("a Kubernetes label selector; {} selects everything")
    return json_value(value)


def _is_network(value: Any) -> bool:
    try:
        return isinstance(value, str) and "/" in value and bool(ipaddress.ip_network(value))
    except ValueError:
        return False


NETWORK = values.Value("an address range like 10.0.0.0/8", _is_network)

IP_BLOCK = Section(
    "a mapping with cidr and except",
    {"cidr": NETWORK, "except": ListOf("a list of address ranges", NETWORK)},
    required=("cidr",),
)

PEER = Section(
    "a mapping with podSelector, namespaceSelector or ipBlock",
    {"podSelector": _selector, "namespaceSelector": _selector, "ipBlock": IP_BLOCK},
)


def _peer(value: Any) -> Any:
    PEER(value)
    if not value or ("ipBlock" in value and len(value) > 1):
        raise InvalidValue("podSelector, namespaceSelector or both; or ipBlock alone")
    return value


POLICY_PORT = Section(
    "a mapping with port, endPort and protocol",
    {
        "port": values.Value(
            "a port number from 1 to 65535, or a port's name",
            lambda value: _PORT.accepts(value) or (isinstance(value, str) and bool(value.strip())),
        ),
        "endPort": _PORT,
        "protocol": values.one_of("TCP", "UDP", "SCTP"),
    },
)


def _rules(peers: str) -> ListOf:
    rule = Section(
        f"a mapping with {peers} and ports; {{}} allows everything",
        {
            peers: ListOf("a list of peers", _peer),
            "ports": ListOf("a list of ports", POLICY_PORT),
        },
    )
    return ListOf("a list of rules", rule)


POLICY_SPEC = Section(
    "none, deny-ingress, deny-all, or the spec of a Kubernetes NetworkPolicy",
    {
        "podSelector": _selector,
        "policyTypes": ListOf("a list of Ingress and Egress", values.one_of("Ingress", "Egress")),
        "ingress": _rules("from"),
        "egress": _rules("to"),
    },
)

_NAMED_POLICIES: Mapping[str, Mapping[str, Any] | None] = {
    "none": None,
    "deny-ingress": {"podSelector": {}, "policyTypes": ["Ingress"]},
    "deny-all": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}

_policy_name = values.one_of(*_NAMED_POLICIES)


def policy(value: Any) -> Any:
    """Check ``network-policy``: one of the names, or a spec."""
    if isinstance(value, str):
        try:
            return _policy_name(value)
        except InvalidValue as error:
            raise InvalidValue(POLICY_SPEC.expected, hint=error.hint) from None
    return POLICY_SPEC(value)


OPTIONS = (
    Option("port", _PORT),
    Option("service-ports", ListOf("a list of mappings with port and target-port", SERVICE_PORT)),
    Option("service-type", values.one_of("ClusterIP", "NodePort", "LoadBalancer", EXTERNAL)),
    Option(
        "external-name",
        values.Value("the DNS name of a host", is_subdomain),
        field="external_name",
    ),
    Option("network-policy", policy, pool_default=True, in_namespace=True),
)


def check(review: Review, path: Path, label: RawLabel, pool: RawLabel) -> None:
    """Report a Service that Kubernetes would refuse, or that has no target."""
    _external(review, path, label)
    _ports(review, path)
    if _has_service(label):
        _service_name(review, path, label)


def resolve(document: Document, path: Path, label: RawLabel, resolved: Mapping[str, Any]) -> Fields:
    """Build the record; a ``service-type`` without ``service-ports`` offers ``port``."""
    port = label.get("port")
    offered = [
        ServicePort(int(entry["port"]), int(entry.get("target-port", entry["port"])))
        for entry in label.get("service-ports", ())
    ]
    ports = [int(port)] if port is not None else []
    if not offered and "service-type" in label:
        offered = [ServicePort(number, number) for number in ports]
    ports += [entry.target_port for entry in offered]
    network = Network(
        ports=tuple(dict.fromkeys(ports)),
        service_type=label.get("service-type", "ClusterIP") if _has_service(label) else None,
        service_ports=tuple(offered),
        policy=_policy(label.get("network-policy", "none")),
        **fields(OPTIONS, document, path, label),
    )
    return {"network": network}


TOPIC = Topic(OPTIONS, resolve, check)


def _policy(given: str | Mapping[str, Any]) -> Mapping[str, Any] | None:
    if isinstance(given, str):
        return _NAMED_POLICIES[given]
    return {"podSelector": {}, **given}


def _has_service(label: Mapping[str, Any]) -> bool:
    return bool(label.get("service-ports")) or "service-type" in label


def _external(review: Review, path: Path, label: RawLabel) -> None:
    if not review.is_valid(path, "service-type", "external-name", "service-ports", "port"):
        return
    kind, place = label.get("service-type"), (*path, "service-type")
    if "external-name" in label and kind != EXTERNAL:
        review.report((*path, "external-name"), f"has no effect without service-type {EXTERNAL}")
    if kind == EXTERNAL and "external-name" not in label:
        review.report(
            place, f"{EXTERNAL} needs external-name beside it: the host that it stands for"
        )
    elif kind not in (None, EXTERNAL) and not label.get("service-ports") and "port" not in label:
        review.report(place, "needs service-ports, or port, beside it: what the Service offers")


def _ports(review: Review, path: Path) -> None:
    seen: dict[int, Path] = {}
    for item_path, item in review.mappings((*path, "service-ports")):
        here = (*item_path, "port")
        if not review.is_valid(here) or "port" not in item:
            continue
        first = seen.setdefault(int(item["port"]), here)
        if first != here:
            hint = f"the first is {review.location(first)}"
            review.reject(here, "a port that the Service does not offer yet", hint)


def _service_name(review: Review, path: Path, label: RawLabel) -> None:
    name = label.get("name")
    if review.is_valid(path, "name") and not _SERVICE_NAME.fullmatch(str(name)):
        review.reject(
            (*path, "name"),
            "a lower-case letter, then letters, digits and '-', at most 63 characters, "
            "because the Service is named as the label",
        )
