"""Reads a configuration file from disk."""

from __future__ import annotations

from collections.abc import Mapping

from nodepool_k8s.config.document import Document, compose
from nodepool_k8s.errors import Problem


def read(path: str, environ: Mapping[str, str], *, secret: bool = False) -> Document:
    """Read a YAML file; its errors are in the document's ``problems``."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return _unreadable(path, "there is no such file")
    except (OSError, ValueError) as error:
        return _unreadable(path, f"cannot be read: {getattr(error, 'strerror', error)}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return _unreadable(path, "is not UTF-8 text; save it as UTF-8", line)
    return compose(path, text, environ, secret=secret)


def _unreadable(path: str, message: str, line: int | None = None) -> Document:
    document = compose(path, "", {})
    document.problems.append(Problem(path, line, "", message))
    return document
