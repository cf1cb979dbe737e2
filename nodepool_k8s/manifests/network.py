"""The Service in front of a node, and the policy that says who may talk to it."""

from __future__ import annotations

from nodepool_k8s.config.settings import Network
from nodepool_k8s.manifests.object_labels import Manifest

POLICIES = "networking.k8s.io"

POLICY_NAME = "nodepool-k8s"


def container_ports(network: Network) -> list[Manifest]:
    """Build the ports of the container; they tell people, and open nothing."""
    return [{"containerPort": port} for port in network.ports]


def service(network: Network, selector: Manifest, metadata: Manifest) -> Manifest | None:
    """Build the Service, in front of the pods that have those labels; None for none."""
    if network.service_type is None:
        return None
    spec: Manifest = {"type": network.service_type}
    if network.external_name is not None:
        spec["externalName"] = network.external_name
    else:
        spec["selector"] = selector
    ports = [
        # More than one must have names.
        {"name": f"port-{entry.port}", "port": entry.port, "targetPort": entry.target_port}
        for entry in network.service_ports
    ]
    if ports:
        spec["ports"] = ports
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def policy(network: Network, metadata: Manifest) -> Manifest | None:
    """Build the NetworkPolicy; None for none."""
    if network.policy is None:
        return None
    return {
        "apiVersion": f"{POLICIES}/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": dict(network.policy),
    }
