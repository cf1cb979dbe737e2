"""A node that only reports that its pods run: kwok, and the stages that its pods go through."""

from pathlib import Path
from typing import Any

import yaml

from .api import Api
from .ports import HOST
from .site import Site
from .state import Probe, Service

NODE = "kwok-0"
IMAGE = "docker.io/library/busybox:1.35"
# Tests that play the kubelet themselves put this annotation on their pods.
MANUAL = "nodepool-k8s.test/manual"
FAKE = ("kwok.x-k8s.io/node", "fake")
LEASE_S = 40
RESOURCES = {
    "cpu": "100k",
    "memory": "10Ti",
    "pods": "1M",
    "ephemeral-storage": "100Ti",
    "nvidia.com/gpu": "1000",
    "amd.com/gpu": "1000",
}


def stages(folder: Path) -> list[dict[str, Any]]:
    """kwok's own stages, except that pods annotated as manual are left alone until deleted."""
    documents = [
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yaml"))
    ]
    return [_sparing_manual(document) for document in documents]


def _sparing_manual(stage: dict[str, Any]) -> dict[str, Any]:
    if stage["metadata"]["name"] not in ("pod-ready", "pod-complete"):
        return stage
    stage["spec"]["selector"]["matchExpressions"].append(
        {"key": f'.metadata.annotations["{MANUAL}"]', "operator": "NotIn", "values": ["true"]}
    )
    return stage


def kwok(site: Site) -> Service:
    """Plays the kubelet of every node that carries the annotation FAKE."""
    claimed = site.claim_ports("kwok")
    assert site.stages is not None
    config = site.layout.config / "kwok.yaml"
    config.write_text(yaml.safe_dump_all(stages(site.stages), sort_keys=False), encoding="utf-8")
    return Service(
        name="kwok",
        argv=[
            site.binaries["kwok"],
            f"--kubeconfig={site.kubeconfig_of('kwok')}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-annotation-selector={'='.join(FAKE)}",
            f"--config={config}",
            f"--node-ip={HOST}",
            f"--node-port={claimed['kwok']}",
            f"--server-address={HOST}:{claimed['kwok']}",
            "--cidr=10.1.0.0/16",
            f"--node-lease-duration-seconds={LEASE_S}",
        ],
        log=str(site.layout.log("kwok")),
        probe=Probe("http", f"http://{HOST}:{claimed['kwok']}/healthz"),
        ports=claimed,
    )


def register(api: Api) -> None:
    """Create the node, large enough for any load of a test."""
    key, value = FAKE
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": NODE,
            "annotations": {key: value},
            "labels": {"type": "kwok", "kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"},
        },
    }
    if api.get(f"/api/v1/nodes/{NODE}") is None:
        api.create("/api/v1/nodes", node)
    api.patch(
        f"/api/v1/nodes/{NODE}/status",
        {"status": {"allocatable": RESOURCES, "capacity": RESOURCES}},
    )
