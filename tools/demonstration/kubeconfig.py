"""The cluster's kube/config, with the context that the example configuration names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def with_context(path: Path, name: str, copy: Path) -> Path:
    """A kube/config whose context `name` is the current one of `path`; `path` if it is so.

    A cluster from Docker, or one of the caller's, calls its context something else.
    """
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    current = document["current-context"]
    if current == name:
        return path
    contexts = {entry["name"]: entry["context"] for entry in document["contexts"]}
    contexts[name] = contexts[current]
    document["contexts"] = [{"name": key, "context": value} for key, value in contexts.items()]
    document["current-context"] = name
    copy.touch(mode=0o600)
    copy.write_text(yaml.safe_dump(document), encoding="utf-8")
    return copy
