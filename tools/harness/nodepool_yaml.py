"""The nodepool.yaml that launchers on a local cluster are started with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Document = dict[str, Any]


def document(
    servers: Sequence[Document],
    providers: Iterable[Document],
    *,
    context: str,
    labels: Sequence[Document] | None = None,
) -> Document:
    """A configuration of those providers, which use that context unless they name another.

    ``servers`` are entries of ``zookeeper-servers``. ``labels`` are those at the top of the
    file: by default every label of a pool, without options.
    """
    entries = [{"driver": "kubernetes", "context": context, **each} for each in providers]
    names = {
        label["name"]: None
        for provider in entries
        for pool in provider["pools"]
        for label in pool["labels"]
    }
    return {
        "zookeeper-servers": list(servers),
        # Many launchers run on one machine: any free port will do.
        "webapp": {"port": 0, "listen_address": "127.0.0.1"},
        "labels": [{"name": name} for name in names] if labels is None else list(labels),
        "providers": entries,
    }


def server(address: str, chroot: str) -> Document:
    """An entry of ``zookeeper-servers``; the address is ``HOST:PORT``, the chroot has its /."""
    host, _, port = address.rpartition(":")
    return {"host": host, "port": int(port), "chroot": chroot}


def tls(files: Sequence[str | Path]) -> Document:
    """The section ``zookeeper-tls``; the files are the authority, the certificate and its key."""
    ca, cert, key = (str(path) for path in files)
    return {"ca": ca, "cert": cert, "key": key}
