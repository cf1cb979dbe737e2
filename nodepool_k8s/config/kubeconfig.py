"""The names of kube/config's contexts: all that configuration needs to know of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nodepool_k8s.config.document import Document
from nodepool_k8s.config.files import read
from nodepool_k8s.errors import ConfigError


def files(environ: Mapping[str, str]) -> list[str]:
    """Paths where kube/config is looked for, as kubectl does."""
    named = [path for path in environ.get("KUBECONFIG", "").split(os.pathsep) if path]
    home = environ.get("HOME") or os.path.expanduser("~")
    return named or [os.path.join(home, ".kube", "config")]


def contexts(environ: Mapping[str, str]) -> set[str] | None:
    """Return the names of every context, None where there is no kube/config at all.

    Raises ConfigError where one is there and cannot be read.
    """
    present = [path for path in files(environ) if os.path.exists(path)]
    if not present:
        return None
    documents = [read(path, {}, secret=True) for path in present]
    problems = [problem for document in documents for problem in document.problems]
    if problems:
        raise ConfigError(problems)
    return {name for document in documents for name in _names(document)}


def _names(document: Document) -> list[str]:
    listed: Any = document.data.get("contexts") if isinstance(document.data, dict) else None
    entries = listed if isinstance(listed, list) else []
    names = [entry.get("name") for entry in entries if isinstance(entry, dict)]
    return [name for name in names if isinstance(name, str)]
