"""What the reference pages ask for, as labels of ours: each example, and what comes of it.

``ACCEPTED`` says what the API server is to have stored, ``REFUSED`` what the reader of the
configuration answers. The pages are DigitalHub's (three versions of one), Metaflow's and
that of Nodepool's kubernetes driver.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodepool_k8s.quantities import parse_quantity
from tests.support.site import IMAGE, Options

HUB_A, HUB_B, HUB_C = (f"digitalhub-kubernetes-resources-{version}" for version in "abc")
METAFLOW = "metaflow-kubernetes-decorator"
NODEPOOL = "nodepool-kubernetes-driver"

PROFILES: list[Options] = [{"name": "1xa100", "gpu": 1, "gpu-vendor": "nvidia"}]
"""What the admin of a cluster with GPUs has written for its users."""


@dataclass(frozen=True)
class Example:
    """One thing that a page asks for; ``seen`` are parts of the pod as it is stored."""

    page: str
    asks: str
    options: Options
    seen: Options
    objects: Mapping[str, Options] = field(default_factory=dict)
    """Parts of what else is in the node's namespace, by ``<resource>/<name>``."""

    @property
    def id(self) -> str:
        return f"{self.page}: {self.asks}"


def part(found: Any, wanted: Any) -> Any:
    """As much of ``found`` as ``wanted`` speaks of; entries with a name are found by it."""
    if isinstance(wanted, Mapping):
        has = found if isinstance(found, Mapping) else {}
        return {key: part(has.get(key), value) for key, value in wanted.items()}
    if isinstance(wanted, list) and isinstance(found, list):
        return [part(_counterpart(found, each, index), each) for index, each in enumerate(wanted)]
    return wanted if _same_quantity(found, wanted) else found


def _counterpart(found: list[Any], wanted: Any, index: int) -> Any:
    if isinstance(wanted, Mapping) and "name" in wanted:
        return next((each for each in found if each.get("name") == wanted["name"]), None)
    return found[index] if index < len(found) else None


def _same_quantity(found: Any, wanted: Any) -> bool:
    """Whether both are one amount: 4096Mi is stored as 4Gi."""
    try:
        return bool(parse_quantity(found) == parse_quantity(wanted))
    except (TypeError, ValueError, AttributeError):
        return False


def _container(**fields: Any) -> Options:
    return {"spec": {"containers": [fields]}}


def _resources(requests: Options, limits: Options | None) -> Options:
    return _container(resources={"requests": requests, "limits": limits})


def _mounted(name: str, path: str, /, **source: Any) -> Options:
    mount = {"name": name, "mountPath": path}
    container = {"volumeMounts": [mount]}
    return {"spec": {"containers": [container], "volumes": [{"name": name, **source}]}}


def _volume(kind: str, name: str, path: str, /, **spec: str) -> Options:
    """A volume as DigitalHub's users write it."""
    return {"volumes": [{"volume_type": kind, "name": name, "mount_path": path, "spec": spec}]}


def _claim(size: str, **more: Any) -> Options:
    return {"spec": {"resources": {"requests": {"storage": size}}, **more}}


SECRET = {"TOKEN": base64.b64encode(b"hidden").decode()}
CONFIG = {"MODE": "ci"}
REGISTRY = {".dockerconfigjson": base64.b64encode(b'{"auths": {}}').decode()}
SOURCES: Mapping[str, Options] = {
    "secrets/my-secret": {"data": SECRET},
    "secrets/secret-name-on-k8s": {"data": SECRET},
    "secrets/registry": {"data": REGISTRY, "type": "kubernetes.io/dockerconfigjson"},
    "configmaps/config-map-name-on-k8s": {"data": CONFIG},
}
"""What the pages take for granted: Secrets and ConfigMaps, in the admin's namespace."""

EMPTY_DIR = _volume("empty_dir", "my-empty-dir", "/data", size_limit="1Gi")
MADE_CLAIM = _volume("persistent_volume_claim", "my-pvc", "/data", size="1Gi")
EPHEMERAL = _volume("ephemeral", "tmp-ephemeral", "/tmp", size="500Mi")
V100 = {"key": "nvidia.com/gpu", "operator": "Equal", "value": "v100", "effect": "NoSchedule"}
LINUX = {"kubernetes.io/os": "linux"}
AMD64 = {"kubernetes.io/arch": "amd64"}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
ABOUT_ITSELF = {
    "NODEPOOL_POD_NAME": "metadata.name",
    "NODEPOOL_POD_NAMESPACE": "metadata.namespace",
    "NODEPOOL_POD_ID": "metadata.uid",
    "NODEPOOL_NODE_IP": "status.hostIP",
}

ACCEPTED: dict[str, Example] = {
    # --- DigitalHub ------------------------------------------------------------------------
    "hub-a-resources": Example(
        HUB_A,
        "cpu and memory, requests and limits apart",
        {
            "resources": {
                "cpu": {"requests": "2", "limits": "4"},
                "mem": {"requests": "4Gi", "limits": "8Gi"},
            }
        },
        _resources({"cpu": "2", "memory": "4Gi"}, {"cpu": "4", "memory": "8Gi"}),
    ),
    "hub-a-claim": Example(
        HUB_A,
        "a volume claim with a size",
        MADE_CLAIM,
        _mounted("my-pvc", "/data", persistentVolumeClaim={"claimName": "my-pvc"}),
        {"persistentvolumeclaims/my-pvc": {**_claim("1Gi"), "status": {"phase": "Bound"}}},
    ),
    "hub-a-empty-dir": Example(
        HUB_A,
        "an empty folder with a limit",
        EMPTY_DIR,
        _mounted("my-empty-dir", "/data", emptyDir={"sizeLimit": "1Gi", "medium": None}),
    ),
    "hub-a-empty-dir-medium": Example(
        HUB_A,
        "an empty folder in memory",
        _volume("empty_dir", "my-empty-dir", "/data", size_limit="1Gi", medium="Memory"),
        _mounted("my-empty-dir", "/data", emptyDir={"sizeLimit": "1Gi", "medium": "Memory"}),
    ),
    "hub-a-ephemeral": Example(
        HUB_A,
        "an ephemeral volume",
        EPHEMERAL,
        _mounted("tmp-ephemeral", "/tmp", ephemeral={"volumeClaimTemplate": _claim("500Mi")}),
        {"persistentvolumeclaims/hub-a-ephemeral-tmp-ephemeral": _claim("500Mi")},
    ),
    "hub-a-service-type": Example(
        HUB_A,
        "a Service that stands for another host",
        {"service_type": "ExternalName", "external_name": "db.example.org"},
        {},
        {
            "services/hub-a-service-type": {
                "spec": {"type": "ExternalName", "externalName": "db.example.org"}
            }
        },
    ),
    "hub-b-resources": Example(
        HUB_B,
        "cpu, memory and a gpu as plain amounts",
        {"resources": {"cpu": "2", "mem": "4Gi", "gpu": "1"}, "gpu_vendor": "nvidia"},
        _resources(*({"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"},) * 2),
    ),
    "hub-b-profile": Example(
        HUB_B,
        "one A100 by a profile",
        {"profile": "1xa100"},
        _resources(*({"nvidia.com/gpu": "1"},) * 2),
    ),
    "hub-b-claim": Example(
        HUB_B,
        "a volume claim with a size, other volumes beside it",
        {
            "volumes": [
                *MADE_CLAIM["volumes"],
                {**EMPTY_DIR["volumes"][0], "mount_path": "/scratch"},
                *EPHEMERAL["volumes"],
            ]
        },
        _container(
            volumeMounts=[
                {"name": "my-pvc", "mountPath": "/data"},
                {"name": "my-empty-dir", "mountPath": "/scratch"},
                {"name": "tmp-ephemeral", "mountPath": "/tmp"},
            ]
        ),
        {"persistentvolumeclaims/my-pvc": _claim("1Gi")},
    ),
    "hub-b-envs": Example(
        HUB_B,
        "a variable",
        {"envs": [{"name": "ENV_NAME", "value": "value"}]},
        _container(env=[{"name": "ENV_NAME", "value": "value"}]),
    ),
    "hub-b-secrets": Example(
        HUB_B,
        "a Secret as variables",
        {"secrets": ["my-secret"]},
        _container(envFrom=[{"secretRef": {"name": "my-secret"}}]),
        {"secrets/my-secret": {"data": SECRET}},
    ),
    "hub-b-replicas": Example(
        HUB_B,
        "three pods",
        {"replicas": 3},
        {"metadata": {"name": "hub-b-replicas"}},
        {
            f"pods/hub-b-replicas{suffix}": {"status": {"phase": "Running"}}
            for suffix in ("", "-1", "-2")
        },
    ),
    "hub-b-service-ports": Example(
        HUB_B,
        "port 80 by a Service of the type NodePort",
        {"service_ports": [{"port": 80, "target_port": 80}], "service_type": "NodePort"},
        _container(ports=[{"containerPort": 80}]),
        {
            "services/hub-b-service-ports": {
                "spec": {"type": "NodePort", "ports": [{"port": 80, "targetPort": 80}]}
            }
        },
    ),
    "hub-b-security-context": Example(
        HUB_B,
        "user, group and group of files",
        {"run_as_user": 1000, "run_as_group": 1000, "fs_group": 1000},
        {"spec": {"securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}}},
    ),
    "hub-b-node-selector": Example(
        HUB_B,
        "a node of the architecture amd64",
        {"node_selector": [{"key": "kubernetes.io/arch", "value": "amd64"}]},
        {"spec": {"nodeSelector": AMD64}},
    ),
    "hub-b-affinity": Example(
        HUB_B,
        "Kubernetes' affinity, in Python's spelling",
        {
            "affinity": {
                "node_affinity": {
                    "required_during_scheduling_ignored_during_execution": {
                        "node_selector_terms": [
                            {
                                "match_expressions": [
                                    {
                                        "key": "kubernetes.io/os",
                                        "operator": "In",
                                        "values": ["linux"],
                                    }
                                ]
                            }
                        ]
                    }
                }
            }
        },
        {
            "spec": {
                "affinity": {
                    "nodeAffinity": {
                        REQUIRED: {
                            "nodeSelectorTerms": [
                                {
                                    "matchExpressions": [
                                        {
                                            "key": "kubernetes.io/os",
                                            "operator": "In",
                                            "values": ["linux"],
                                        }
                                    ]
                                }
                            ]
                        }
                    }
                }
            }
        },
    ),
    "hub-c-node-selector": Example(
        HUB_C,
        "a node by one pair of key and value",
        {"node_selector": {"key": "kubernetes.io/os", "value": "linux"}},
        {"spec": {"nodeSelector": LINUX}},
    ),
    "hub-c-claim": Example(
        HUB_C,
        "a claim that something else makes",
        _volume("persistent_volume_claim", "my-pvc", "/data", claim_name="pvc-name-on-k8s"),
        _mounted("my-pvc", "/data", persistentVolumeClaim={"claimName": "pvc-name-on-k8s"}),
    ),
    "hub-c-config-map": Example(
        HUB_C,
        "a ConfigMap as files",
        _volume("config_map", "my-config-map", "/data", name="config-map-name-on-k8s"),
        _mounted("my-config-map", "/data", configMap={"name": "config-map-name-on-k8s"}),
        {"configmaps/config-map-name-on-k8s": {"data": CONFIG}},
    ),
    "hub-c-secret": Example(
        HUB_C,
        "a Secret as files",
        _volume("secret", "my-secret", "/data", secret_name="secret-name-on-k8s"),
        _mounted("my-secret", "/data", secret={"secretName": "secret-name-on-k8s"}),
        {"secrets/secret-name-on-k8s": {"data": SECRET}},
    ),
    "hub-c-cpu": Example(
        HUB_C,
        "12 to 16 cores",
        {"resources": {"cpu": {"requests": "12", "limits": "16"}}},
        _resources({"cpu": "12"}, {"cpu": "16"}),
    ),
    "hub-c-memory": Example(
        HUB_C,
        "memory without a limit",
        {"resources": {"mem": {"requests": "64Gi"}}},
        _resources({"memory": "64Gi"}, None),
    ),
    "hub-c-gpu": Example(
        HUB_C,
        "a gpu by its limit, on nodes that are kept for them",
        {"resources": {"gpu": {"limits": "1"}}, "gpu_vendor": "nvidia", "tolerations": [V100]},
        {
            "spec": {
                **_resources(*({"nvidia.com/gpu": "1"},) * 2)["spec"],
                "tolerations": [V100],
            }
        },
    ),
    "hub-c-envs": Example(
        HUB_C,
        "a variable with a hyphen",
        {"env": [{"name": "env-name", "value": "value"}]},
        _container(env=[{"name": "env-name", "value": "value"}]),
    ),
    "hub-c-tolerations": Example(
        HUB_C,
        "a toleration for a while, with the effect that has one",
        {"tolerations": [{**V100, "effect": "NoExecute", "toleration_seconds": 300}]},
        {
            "spec": {
                "tolerations": [{**V100, "effect": "NoExecute", "tolerationSeconds": 300}],
            }
        },
    ),
    # --- Metaflow ------------------------------------------------------------------------
    "metaflow-basic": Example(
        METAFLOW,
        "cpu, memory (MB) and disk (MB)",
        {"cpu": 1, "memory": 4096, "storage": 10240},
        _resources(*({"cpu": "1", "memory": "4Gi", "ephemeral-storage": "10240M"},) * 2),
    ),
    "metaflow-service-account": Example(
        METAFLOW,
        "an account for the pod",
        {"service_account": "robot"},
        {"spec": {"serviceAccountName": "robot"}},
        {"serviceaccounts/robot": {"metadata": {"name": "robot"}}},
    ),
    "metaflow-secrets": Example(
        METAFLOW,
        "several Secrets as variables",
        {"secrets": ["my-secret", "secret-name-on-k8s"]},
        _container(
            envFrom=[{"secretRef": {"name": name}} for name in ("my-secret", "secret-name-on-k8s")]
        ),
        {"secrets/my-secret": {"data": SECRET}},
    ),
    "metaflow-image-pull-secrets": Example(
        METAFLOW,
        "a Secret to pull images with",
        {"image_pull_secrets": ["registry"]},
        {"spec": {"imagePullSecrets": [{"name": "registry"}]}},
        {"secrets/registry": {"type": "kubernetes.io/dockerconfigjson"}},
    ),
    "metaflow-gpu": Example(
        METAFLOW,
        "a gpu of a vendor",
        {"gpu": 1, "gpu_vendor": "amd"},
        _resources(*({"amd.com/gpu": "1"},) * 2),
    ),
    "metaflow-no-gpu": Example(
        METAFLOW,
        "no gpu: a node that has none",
        {"gpu": 0, "gpu_vendor": "nvidia"},
        {
            "spec": {
                "affinity": {
                    "nodeAffinity": {
                        REQUIRED: {
                            "nodeSelectorTerms": [
                                {
                                    "matchExpressions": [
                                        {
                                            "key": "nvidia.com/gpu.present",
                                            "operator": "DoesNotExist",
                                        }
                                    ]
                                }
                            ]
                        }
                    }
                }
            }
        },
    ),
    "metaflow-image": Example(
        METAFLOW,
        "an image, and when it is pulled",
        {"image": IMAGE, "image_pull": "Always"},
        _container(image=IMAGE, imagePullPolicy="Always"),
    ),
    "metaflow-selector-text": Example(
        METAFLOW,
        "node selectors as one text",
        {"node_selector": "kubernetes.io/os=linux,kubernetes.io/arch=amd64"},
        {"spec": {"nodeSelector": {**LINUX, **AMD64}}},
    ),
    "metaflow-selector-map": Example(
        METAFLOW,
        "node selectors as a mapping",
        {"node_selector": {**LINUX, **AMD64}},
        {"spec": {"nodeSelector": {**LINUX, **AMD64}}},
    ),
    "metaflow-labels": Example(
        METAFLOW,
        "labels and annotations",
        {"labels": {"team": "ml"}, "annotations": {"example.org/owner": "someone"}},
        {
            "metadata": {
                "labels": {"team": "ml"},
                "annotations": {"example.org/owner": "someone"},
            }
        },
    ),
    "metaflow-claims": Example(
        METAFLOW,
        "persistent volumes by claim and path",
        {"persistent_volume_claims": {"pvc-name": {"path": "/path/to/mount/on", "size": "1Gi"}}},
        {
            "spec": {
                "containers": [{"volumeMounts": [{"mountPath": "/path/to/mount/on"}]}],
                "volumes": [{"persistentVolumeClaim": {"claimName": "pvc-name"}}],
            }
        },
        {"persistentvolumeclaims/pvc-name": _claim("1Gi")},
    ),
    "metaflow-shared-memory": Example(
        METAFLOW,
        "shared memory (MiB)",
        {"shared_memory": 64},
        _mounted("shared-memory", "/dev/shm", emptyDir={"medium": "Memory", "sizeLimit": "64Mi"}),
    ),
    "metaflow-tmpfs": Example(
        METAFLOW,
        "a folder in memory: half of it, in the usual place",
        {"memory": 512, "tmpfs": True},
        _mounted("tmpfs", "/metaflow_temp", emptyDir={"medium": "Memory", "sizeLimit": "256Mi"}),
    ),
    "metaflow-tmpfs-size": Example(
        METAFLOW,
        "a folder in memory with size, path and TMPDIR",
        {"tmpfs": {"size": 16, "path": "/scratch", "tempdir": True}},
        {
            "spec": {
                "containers": [
                    {
                        "volumeMounts": [{"name": "tmpfs", "mountPath": "/scratch"}],
                        "env": [{"name": "TMPDIR", "value": "/scratch"}],
                    }
                ],
                "volumes": [
                    {"name": "tmpfs", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}
                ],
            }
        },
    ),
    "metaflow-port": Example(
        METAFLOW,
        "a port of the container",
        {"port": 9000},
        _container(ports=[{"containerPort": 9000}]),
    ),
    "metaflow-compute-pool": Example(
        METAFLOW,
        "a compute pool",
        {"compute_pool": "linux"},
        {"spec": {"nodeSelector": LINUX}},
    ),
    **{
        f"metaflow-{qos.lower()}": Example(
            METAFLOW,
            f"the quality of service {qos}",
            {"qos": qos, **resources},
            {"status": {"qosClass": qos}},
        )
        for qos, resources in (
            ("Guaranteed", {"cpu": 1, "memory": 64}),
            ("Burstable", {"cpu": 1, "memory": 64}),
            ("BestEffort", {}),
        )
    },
    "metaflow-security-context": Example(
        METAFLOW,
        "all keys of its security context",
        {
            "security_context": {
                "privileged": False,
                "allow_privilege_escalation": False,
                "run_as_user": 1000,
                "run_as_group": 3000,
                "run_as_non_root": True,
            }
        },
        {
            "spec": {
                "securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "runAsNonRoot": True},
                "containers": [
                    {"securityContext": {"privileged": False, "allowPrivilegeEscalation": False}}
                ],
            }
        },
    ),
    "metaflow-variables": Example(
        METAFLOW,
        "what a pod learns about itself",
        {},
        _container(
            env=[
                {"name": "NODEPOOL_WORKLOAD", "value": "1"},
                *(
                    {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
                    for name, path in ABOUT_ITSELF.items()
                ),
            ]
        ),
    ),
    # --- Nodepool ------------------------------------------------------------------------
    "pod-fedora": Example(
        NODEPOOL,
        "a pod with an image and nothing else",
        {"image": "docker.io/fedora:28"},
        _container(name="pod-fedora", image="docker.io/fedora:28", imagePullPolicy="IfNotPresent"),
    ),
    "nodepool-dynamic-labels": Example(
        NODEPOOL,
        "a label that tells of the request",
        {"dynamic-labels": {"request_info": "by {request.requestor}"}},
        {"metadata": {"labels": {"request_info": "by-zuul-system"}}},
    ),
    "custom-pod": Example(
        NODEPOOL,
        "a spec of one's own",
        {
            "spec": {
                "containers": [
                    {
                        "name": "custom-pod",
                        "image": "ubuntu:jammy",
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["/bin/sh", "-c"],
                        "args": ["while true; do sleep 30; done;"],
                    }
                ]
            }
        },
        _container(
            name="custom-pod",
            image="ubuntu:jammy",
            command=["/bin/sh", "-c"],
            args=["while true; do sleep 30; done;"],
        ),
    ),
    "nodepool-limits": Example(
        NODEPOOL,
        "limits beyond what is requested",
        {
            "cpu": 1,
            "memory": 512,
            "storage": 10,
            "cpu-limit": 2,
            "memory-limit": 1024,
            "storage-limit": 20,
        },
        _resources(
            {"cpu": "1", "memory": "512Mi", "ephemeral-storage": "10M"},
            {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "20M"},
        ),
    ),
    "nodepool-volumes": Example(
        NODEPOOL,
        "Kubernetes' own volumes and mounts, privileged, for a scheduler",
        {
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "volume-mounts": [{"name": "scratch", "mountPath": "/scratch"}],
            "privileged": True,
            "scheduler-name": "default-scheduler",
        },
        {
            "spec": {
                **_mounted("scratch", "/scratch", emptyDir={})["spec"],
                "schedulerName": "default-scheduler",
            }
        },
    ),
}


@dataclass(frozen=True)
class Refusal:
    """An option of a page that is not supported, and the error for it."""

    page: str
    asks: str
    options: Options
    where: str
    """The option that is wrong, below the label."""
    told: str
    """A regular expression."""

    @property
    def id(self) -> str:
        return f"{self.page}: {self.asks}"


REFUSED = [
    # --- DigitalHub ------------------------------------------------------------------------
    Refusal(
        HUB_A,
        "memory by digits without a unit",
        {"resources": {"mem": "4"}},
        "resources.mem",
        "found '4', expected a Kubernetes quantity with its unit.*say the unit: 4Mi",
    ),
    Refusal(
        HUB_A,
        "an ephemeral volume whose size is left out",
        _volume("ephemeral", "tmp-ephemeral", "/tmp"),
        "volumes[0].spec.size",
        "is missing, expected a size with its unit",
    ),
    Refusal(
        HUB_A,
        "the three volumes of the page together, two of them at one path",
        {"volumes": [*MADE_CLAIM["volumes"], *EMPTY_DIR["volumes"], *EPHEMERAL["volumes"]]},
        "volumes[1].mount_path",
        "found '/data', expected a path at which nothing else is mounted",
    ),
    Refusal(
        HUB_A,
        "a Service of the type ExternalName without a host",
        {"service_ports": [{"port": 80, "target_port": 80}], "service_type": "ExternalName"},
        "service_type",
        "ExternalName needs external-name beside it",
    ),
    Refusal(
        HUB_A,
        "a profile that the administrator doesn't have",
        {"profile": "2xa100"},
        "profile",
        "found '2xa100', expected the name of an entry .* did you mean '1xa100'",
    ),
    Refusal(
        HUB_B,
        "a gpu without a vendor",
        {"resources": {"cpu": "2", "mem": "4Gi", "gpu": "1"}},
        "resources.gpu",
        "needs gpu-resource beside it: .*nvidia.com/gpu; or gpu-vendor",
    ),
    Refusal(
        HUB_B, "no replicas", {"replicas": 0}, "replicas", "found 0, expected .* pods, 1 or more"
    ),
    Refusal(
        HUB_C,
        "a node selector of its own words, which are no key",
        {"node_selector": {"key": "Node selector key.", "value": "value"}},
        "node_selector.key",
        "found 'Node selector key.', expected letters, digits",
    ),
    Refusal(
        HUB_C,
        "a volume of a kind that it doesn't have",
        _volume("host_path", "my-path", "/data", path="/"),
        "volumes[0].volume_type",
        "found 'host_path', expected persistent_volume_claim, empty_dir, ephemeral, config_map or",
    ),
    Refusal(
        HUB_C,
        "tolerations by the name of its example's variable",
        {"toleration": [V100]},
        "toleration",
        "is not an option here; did you mean 'tolerations'",
    ),
    Refusal(
        HUB_C,
        "seconds for a toleration that has no end",
        {"tolerations": [{**V100, "toleration_seconds": 300}]},
        "tolerations[0].toleration_seconds",
        "found 300, expected no such seconds without effect: NoExecute, as the API server would",
    ),
    Refusal(
        HUB_C,
        "more cores than their limit",
        {"resources": {"cpu": {"requests": "16", "limits": "12"}}},
        "resources.cpu.limits",
        r"found '12', expected requests \('16'\) or more",
    ),
    # --- Metaflow ------------------------------------------------------------------------
    Refusal(
        METAFLOW,
        "half a gpu",
        {"gpu": 0.5, "gpu-vendor": "nvidia"},
        "gpu",
        "found 0.5, expected a whole number of GPUs",
    ),
    Refusal(
        METAFLOW,
        "a gpu of a vendor that is unknown",
        {"gpu": 1, "gpu_vendor": "intel"},
        "gpu_vendor",
        "found 'intel', expected nvidia or amd",
    ),
    Refusal(
        METAFLOW,
        "a guarantee for nothing",
        {"qos": "Guaranteed"},
        "qos",
        "Guaranteed contradicts the resources: it needs cpu and memory",
    ),
    Refusal(
        METAFLOW,
        "best effort with cores of its own",
        {"qos": "BestEffort", "cpu": 1},
        "qos",
        "BestEffort contradicts the resources: .* cpu is given",
    ),
    Refusal(
        METAFLOW,
        "shared memory beyond the memory",
        {"memory": 64, "shared_memory": 128},
        "shared_memory",
        r"found 128, expected the memory limit \(64 MiB\) or less",
    ),
    Refusal(
        METAFLOW,
        "a folder in memory beyond the memory",
        {"memory": 64, "tmpfs": {"size": 128}},
        "tmpfs.size",
        r"found 128, expected the memory limit \(64 MiB\) or less",
    ),
    Refusal(
        METAFLOW,
        "privileges without more privileges",
        {"security_context": {"privileged": True, "allow_privilege_escalation": False}},
        "security_context.allow_privilege_escalation",
        "found false, expected true, or nothing: the label is privileged",
    ),
    Refusal(
        METAFLOW,
        "a node selector without a value",
        {"node_selector": "kubernetes.io/os"},
        "node_selector",
        "found 'kubernetes.io/os', expected labels of Kubernetes nodes",
    ),
    *(
        Refusal(METAFLOW, f"{name} by its own name", {name: value}, name, f"is not an .*{told}")
        for name, value, told in (
            ("disk", 10240, "expected one of: .*storage"),
            ("image_pull_policy", "Always", "did you mean 'image-pull'"),
            ("use_tmpfs", True, "did you mean 'tmpfs'"),
            ("tmpfs_size", 100, "did you mean 'tmpfs'"),
            ("namespace", "default", "option here"),
            ("hostname_resolution_timeout", 600, "option here"),
        )
    ),
    # --- Nodepool ------------------------------------------------------------------------
    Refusal(
        NODEPOOL,
        "a spec and cores beside it",
        {**ACCEPTED["custom-pod"].options, "cpu": 1},
        "cpu",
        "cannot be given together with spec",
    ),
    Refusal(
        NODEPOOL,
        "a limit below what is requested",
        {"cpu": 2, "cpu-limit": 1},
        "cpu-limit",
        r"found 1, expected cpu \(2\) or more",
    ),
]
