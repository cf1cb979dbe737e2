"""Just enough of a kubeconfig file for a bare HTTP client: an address and a TLS context."""

from __future__ import annotations

import base64
import ssl
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmark.errors import BenchmarkError


def access(path: str, context: str) -> tuple[str, ssl.SSLContext, dict[str, str]]:
    """The API server's URL, the TLS context and the headers for that context's user."""
    document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    chosen = _named(document, "contexts", context)["context"]
    cluster = _named(document, "clusters", chosen["cluster"])["cluster"]
    user = _named(document, "users", chosen["user"])["user"]
    token = user.get("token")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return cluster["server"], _tls(cluster, user), headers


def _named(document: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    for entry in document.get(section) or ():
        if entry["name"] == name:
            return dict(entry)
    raise BenchmarkError(f"the kubeconfig has no entry {name!r} under {section}")


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    authority = _pem(cluster, "certificate-authority")
    tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
    certificate, key = _pem(user, "client-certificate"), _pem(user, "client-key")
    if certificate and key:
        # ssl reads client certificates from files only.
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate + b"\n" + key)
            file.flush()
            tls.load_cert_chain(file.name)
    return tls


def _pem(entry: dict[str, Any], name: str) -> bytes | None:
    if f"{name}-data" in entry:
        return base64.b64decode(entry[f"{name}-data"])
    return Path(entry[name]).read_bytes() if name in entry else None
