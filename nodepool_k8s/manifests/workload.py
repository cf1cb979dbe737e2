"""What a container runs, and its environment."""

from __future__ import annotations

from nodepool_k8s.config.settings import Workload
from nodepool_k8s.manifests.object_labels import Manifest

# `wait` returns as soon as TERM arrives, where a shell waiting for `sleep` itself would
# finish that first; without the trap, PID 1 ignores TERM and takes the whole grace period.
COMMAND = ("/bin/sh", "-c")
SLEEP_FOREVER = "trap 'exit 0' TERM; while true; do sleep 86400 & wait; done"

INFO_FIELDS = {
    "NODEPOOL_POD_NAME": "metadata.name",
    "NODEPOOL_POD_NAMESPACE": "metadata.namespace",
    "NODEPOOL_POD_ID": "metadata.uid",
    "NODEPOOL_NODE_IP": "status.hostIP",
}
"""What a container is told about its pod, and the field that Kubernetes takes it from."""


def process(workload: Workload) -> Manifest:
    """Build what is started: what the label says, else a shell that sleeps until it is deleted."""
    if workload.command is None and workload.args is None:
        fields: Manifest = {"command": list(COMMAND), "args": [SLEEP_FOREVER]}
    else:
        fields = {"command": list(workload.command or ()), "args": list(workload.args or ())}
    fields["workingDir"] = workload.working_dir
    return {key: value for key, value in fields.items() if value}


def environment(workload: Workload) -> list[Manifest]:
    """Build the variables: those about the pod, then the label's own, which may replace them."""
    own = [{"name": name, "value": value} for name, value in workload.env]
    names = {name for name, _ in workload.env}
    info = _info() if workload.pod_info_env else []
    return [variable for variable in info if variable["name"] not in names] + own


def _info() -> list[Manifest]:
    fields = [
        {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
        for name, path in INFO_FIELDS.items()
    ]
    return [{"name": "NODEPOOL_WORKLOAD", "value": "1"}, *fields]
