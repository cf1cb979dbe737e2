"""Kubernetes' rules for names."""

from __future__ import annotations

import re
import string
from typing import Any

MAX_POOL_NAME = 48
"""A namespace's 63 characters, less a node's id, an attempt's number and two hyphens."""

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")


def is_dns_label(text: Any) -> bool:
    """Tell whether a text may name a namespace or a container."""
    return isinstance(text, str) and bool(_DNS_LABEL.fullmatch(text))


def is_subdomain(text: Any) -> bool:
    """Tell whether a text may name a pod."""
    return (
        isinstance(text, str)
        and len(text) <= 253
        and all(_DNS_LABEL.fullmatch(part) for part in text.split("."))
    )


def is_label_key(text: Any) -> bool:
    """Tell whether a text may be the key of a Kubernetes label or annotation."""
    if not isinstance(text, str):
        return False
    prefix, slash, name = text.rpartition("/")
    return bool(name and _LABEL_VALUE.fullmatch(name)) and (not slash or is_subdomain(prefix))


def is_label_value(text: str) -> bool:
    """Tell whether a text may be the value of a Kubernetes label."""
    return bool(_LABEL_VALUE.fullmatch(text))


def as_dns_label(text: str) -> str:
    """Make the nearest valid name of a text, '' where nothing is left of it."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_POOL_NAME].strip("-")


def is_env_name(text: Any) -> bool:
    """Tell whether a text may name an environment variable on every version of Kubernetes."""
    return (
        isinstance(text, str)
        and bool(_ENV_NAME.fullmatch(text))
        and text != "."
        and not text.startswith("..")
    )


def template_fields(value: str) -> list[str] | None:
    """List the fields that a format string names, None where it is not well-formed."""
    try:
        return [field for _, field, _, _ in string.Formatter().parse(value) if field is not None]
    except ValueError:
        return None
