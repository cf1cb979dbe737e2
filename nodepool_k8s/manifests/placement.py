"""Where a pod may run, as its spec says it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from nodepool_k8s.config.settings import Placement
from nodepool_k8s.manifests.object_labels import Manifest

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def pod_fields(placement: Placement) -> Manifest:
    """Build the fields of a pod's spec; what is not asked for is not there."""
    fields = {
        "nodeSelector": dict(placement.node_selector),
        "tolerations": [dict(toleration) for toleration in placement.tolerations],
        "affinity": _affinity(placement),
        "runtimeClassName": placement.runtime_class,
        "priorityClassName": placement.priority_class,
        "schedulerName": placement.scheduler_name,
    }
    return {key: value for key, value in fields.items() if value}


def _affinity(placement: Placement) -> Manifest:
    """Keep the pod off nodes with the labels ``without``, whatever else is asked for."""
    affinity: dict[str, Any] = deepcopy(dict(placement.affinity))
    absent = [{"key": key, "operator": "DoesNotExist"} for key in placement.without]
    if absent:
        node = affinity.setdefault("nodeAffinity", {})
        # One of the terms is enough for Kubernetes, so that each has to say it.
        terms = node.setdefault(_REQUIRED, {"nodeSelectorTerms": [{}]})["nodeSelectorTerms"]
        for term in terms:
            term["matchExpressions"] = [*term.get("matchExpressions", ()), *absent]
    return affinity
