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

    The client reads $KUBECONFIG when it is imported, which may be too early.
    """
    return os.environ.get("KUBECONFIG") or os.path.expanduser(DEFAULT_KUBE_CONFIG)


async def load(context: str | None) -> Configuration:
    """Read how to reach the cluster of a context; run its credential plugin if it has one.

    Reads everything again at each call: rotated files, expired tokens. Without a context
    and without kube/config, uses the service account of the pod that the launcher runs in.
    """
    configuration = Configuration()
    # As kubectl does: many clusters' CAs lack the extensions that strict checks need.
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
    # The loader does not wrap the errors that a malformed file causes.
    except Exception as error:
        raise KubernetesError(_explain(context, path, error)) from error
    if configuration.proxy is None:
        configuration.proxy = _environment_proxy(configuration.host)
    return configuration


def ca_certificates(configuration: Configuration) -> str | None:
    """The PEM text of the CAs that the cluster's certificate is verified with."""
    if configuration.ca_cert_data:
        return str(configuration.ca_cert_data)
    if configuration.ssl_ca_cert:
        return pathlib.Path(configuration.ssl_ca_cert).read_text(encoding="utf-8")
    return None


def encoded(pem: str | None) -> str | None:
    """Base64, the form in which kube/config carries certificates."""
    return None if pem is None else base64.b64encode(pem.encode("utf-8")).decode("ascii")


def decoded(data: str) -> str:
    """Decode a Secret's value; an empty string if it is not base64."""
    try:
        return base64.b64decode(data).decode("utf-8")
    except ValueError:  # Not base64, not UTF-8 or not ASCII.
        return ""


def _any_exists(path: str) -> bool:
    return any(os.path.exists(part) for part in path.split(os.pathsep) if part)


def _environment_proxy(host: str) -> str | None:
    """Read the environment once; aiohttp would read it for every request."""
    parts = urllib.parse.urlsplit(host)
    if parts.hostname is None or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _explain(context: str | None, path: str, error: Exception) -> str:
    if not _any_exists(path):
        if context is None:
            return f"neither {path} nor an in-cluster service account can be used: {error}"
        return f"context {context}: {path} does not exist (KUBECONFIG names another file)"
    return f"context {context or '(current)'} of {path} cannot be used: {error}"
