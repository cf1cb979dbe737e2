"""A cluster that the environment names: used as it is, never stopped or taken down."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from harness import kubeconfig, yamlfile
from harness.kubeconfig import KubeconfigError

from . import sources
from .errors import ClusterError
from .state import Endpoints, State

IMAGE = "docker.io/library/busybox:1.35"


def adopt(environ: Mapping[str, str]) -> State:
    """The state of the cluster that the variables name."""
    path = Path(environ[sources.KUBECONFIG])
    context, server = _current(path)
    nodes = environ.get("NODEPOOL_K8S_NODES", sources.REAL)
    endpoints = Endpoints(
        kubeconfig=str(path),
        context=context,
        api_server_url=server,
        zookeeper=environ[sources.ZOOKEEPER],
        nodes=nodes,
        image=environ.get("NODEPOOL_K8S_IMAGE", IMAGE),
        zookeeper_tls=environ.get("NODEPOOL_K8S_ZOOKEEPER_TLS", ""),
        tls_ca=environ.get("NODEPOOL_K8S_ZOOKEEPER_TLS_CA", ""),
        tls_cert=environ.get("NODEPOOL_K8S_ZOOKEEPER_TLS_CERT", ""),
        tls_key=environ.get("NODEPOOL_K8S_ZOOKEEPER_TLS_KEY", ""),
    )
    return State(sources.ENVIRONMENT, nodes, ready=True, endpoints=endpoints)


def exports(found: Endpoints) -> dict[str, str]:
    """The variables that make other programs, and `adopt`, use these endpoints."""
    return {
        sources.KUBECONFIG: found.kubeconfig,
        sources.ZOOKEEPER: found.zookeeper,
        "NODEPOOL_K8S_ZOOKEEPER_TLS": found.zookeeper_tls,
        "NODEPOOL_K8S_ZOOKEEPER_TLS_CA": found.tls_ca,
        "NODEPOOL_K8S_ZOOKEEPER_TLS_CERT": found.tls_cert,
        "NODEPOOL_K8S_ZOOKEEPER_TLS_KEY": found.tls_key,
        "NODEPOOL_K8S_NODES": found.nodes,
        "NODEPOOL_K8S_IMAGE": found.image,
    }


def _current(path: Path) -> tuple[str, str]:
    try:
        document = yamlfile.load(path)
        name = document["current-context"]
        context = kubeconfig.entry(document, "contexts", name)
        server = kubeconfig.entry(document, "clusters", context["cluster"])["server"]
    except (OSError, yaml.YAMLError, KubeconfigError, KeyError, TypeError) as error:
        raise ClusterError(
            f"{sources.KUBECONFIG}={path} has no usable current context ({error!r}); "
            "name one file that has"
        ) from error
    return str(name), str(server)
