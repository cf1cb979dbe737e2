"""How to reach one cluster: kube/config or the in-cluster account, read by the official client.

Owns the client's Configuration of one provider and what is told to requestors about
the cluster. Never logs a token.
"""

from __future__ import annotations

import base64
import os
import pathlib
import urllib.parse
import urllib.request

from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

from nodepool_k8s.errors import KubernetesError

DEFAULT_KUBE_CONFIG = "~/.kube/config"


def kube_config_path() -> str:
    """The kube/config files that apply now: $KUBECONFIG or the default path.

    The client decides that when it is imported, which is too early for us.
    """
    return os.environ.get("KUBECONFIG") or os.path.expanduser(DEFAULT_KUBE_CONFIG)


async def load(context: str | None) -> Configuration:
    """Read how to reach the cluster of a context; run its credential plugin if it has one.

    Called again when the server no longer accepts what was read, it reads everything
    anew: rotated files, expired tokens. Without a context, and without kube/config, it is
    the service account of the pod that the launcher runs in.
    """
    configuration = Configuration()
    # As kubectl does: authorities without the strict extensions are common in clusters.
    configuration.disable_strict_ssl_verification = True
    path = kube_config_path()
    try:
        if context is None and not _any_exists(path):
            load_incluster_config(client_configuration=configuration)
        else:
            await load_kube_config(
                config_file=path,
                context=context,
                client_configuration=configuration,
                persist_config=False,
            )
    # The loader lets through whatever a malformed file makes it stumble over.
    except Exception as error:
        raise KubernetesError(_explain(context, path, error)) from error
    if configuration.proxy is None:
        configuration.proxy = _environment_proxy(configuration.host)
    return configuration


def ca_certificates(configuration: Configuration) -> str | None:
    """The PEM text of the authorities that the cluster's certificate is checked against."""
    if configuration.ca_cert_data:
        return str(configuration.ca_cert_data)
    if configuration.ssl_ca_cert:
        return pathlib.Path(configuration.ssl_ca_cert).read_text(encoding="utf-8")
    return None


def encoded(pem: str | None) -> str | None:
    """Base64, the form in which kube/config carries certificates."""
    return None if pem is None else base64.b64encode(pem.encode("utf-8")).decode("ascii")


def decoded(data: str) -> str:
    """What a Secret holds under a key; an empty string for what is not base64."""
    try:
        return base64.b64decode(data).decode("utf-8")
    except ValueError:  # Of base64, of UTF-8, or of what is not ASCII to begin with.
        return ""


def _any_exists(path: str) -> bool:
    return any(os.path.exists(part) for part in path.split(os.pathsep) if part)


def _environment_proxy(host: str) -> str | None:
    """Ask the environment once; left to aiohttp it would be asked for every request."""
    parts = urllib.parse.urlsplit(host)
    if parts.hostname is None or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _explain(context: str | None, path: str, error: Exception) -> str:
    if not _any_exists(path):
        if context is None:
            return f"neither {path} nor an in-cluster service account can be used: {error}"
        return f"context {context}: there is no {path} (KUBECONFIG names another file)"
    return f"context {context or '(current)'} of {path} cannot be used: {error}"
