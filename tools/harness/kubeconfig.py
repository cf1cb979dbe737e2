"""Kubeconfig files: writing them, adding a context, and reading what a bare HTTP client needs."""

from __future__ import annotations

import base64
import copy
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import yamlfile

Document = dict[str, Any]


class KubeconfigError(Exception):
    """A kubeconfig file lacks something; the message says what."""


def write(
    path: Path,
    context: str,
    server: str,
    user: Mapping[str, Any] | None = None,
    **cluster: Any,
) -> None:
    """Write a file with one context, which is the current one.

    ``server`` is the URL of its cluster, whose further fields are in ``cluster`` with ``_`` for
    ``-``; ``user`` are the fields of its user, who needs none at a server that asks for none.
    """
    fields = {name.replace("_", "-"): value for name, value in cluster.items()}
    yamlfile.replace(
        path,
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": context, "cluster": {"server": server, **fields}}],
            "users": [{"name": context, "user": dict(user or {})}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
            "current-context": context,
        },
    )


def with_context(document: Document, name: str, server: str = "") -> Document:
    """A copy whose current context has that name, and the user and cluster of the one before.

    With ``server``, that context reaches the cluster at that URL instead of its own.
    """
    changed = copy.deepcopy(document)
    context = dict(entry(document, "contexts", document["current-context"]))
    if server:
        cluster = {**entry(document, "clusters", context["cluster"]), "server": server}
        changed["clusters"].append({"name": name, "cluster": cluster})
        context["cluster"] = name
    others = [each for each in changed["contexts"] if each["name"] != name]
    changed["contexts"] = [*others, {"name": name, "context": context}]
    changed["current-context"] = name
    return changed


def entry(document: Document, section: str, name: str) -> dict[str, Any]:
    """One entry of ``contexts``, ``clusters`` or ``users``. Raises KubeconfigError."""
    for each in document.get(section) or ():
        if each["name"] == name:
            return dict(each[section.removesuffix("s")])
    raise KubeconfigError(f"the kubeconfig has no entry {name!r} under {section}")


@dataclass(frozen=True)
class Access:
    """How a context's user reaches its cluster."""

    url: str
    tls: ssl.SSLContext | bool
    headers: dict[str, str]


def access(path: Path, context: str) -> Access:
    """What a file says about one context. Raises KubeconfigError."""
    document = yamlfile.load(path)
    chosen = entry(document, "contexts", context)
    cluster = entry(document, "clusters", chosen["cluster"])
    user = entry(document, "users", chosen["user"])
    token = user.get("token")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Access(cluster["server"], _tls(cluster, user), headers)


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    context = tls(_pem(cluster, "certificate-authority"))
    certificate, key = _pem(user, "client-certificate"), _pem(user, "client-key")
    if certificate and key:
        # ssl reads client certificates from files only.
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def tls(authority: bytes | None) -> ssl.SSLContext:
    """A context that trusts the authorities in that PEM text."""
    context = ssl.create_default_context(cadata=authority.decode("ascii") if authority else None)
    # As kubectl does: authorities without the strict extensions are common in clusters.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _pem(section: dict[str, Any], name: str) -> bytes | None:
    if f"{name}-data" in section:
        return base64.b64decode(section[f"{name}-data"])
    return Path(section[name]).read_bytes() if name in section else None
