"""Kubernetes' rules for names, and the nearest valid name or value of any text."""

from __future__ import annotations

import re

NAME_LENGTH = 63
"""The longest DNS label, and the longest value of a label."""

SUBDOMAIN_LENGTH = 253
"""The longest DNS subdomain: the name of a pod, the prefix of a label's key."""

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_EDGES = re.compile(r"^[^A-Za-z0-9]+|[^A-Za-z0-9]+$")
_NOT_IN_VALUE = re.compile(r"[^A-Za-z0-9._-]")


# --- what Kubernetes accepts ------------------------------------------------------------------


def is_dns_label(text: object) -> bool:
    """Whether a text may name a namespace or a container."""
    return isinstance(text, str) and _DNS_LABEL.fullmatch(text) is not None


def is_subdomain(text: object) -> bool:
    """Whether a text may name a pod."""
    return (
        isinstance(text, str)
        and len(text) <= SUBDOMAIN_LENGTH
        and all(_DNS_LABEL.fullmatch(part) for part in text.split("."))
    )


def is_label_key(text: object) -> bool:
    """Whether a text may be the key of a label or an annotation."""
    if not isinstance(text, str):
        return False
    prefix, slash, name = text.rpartition("/")
    return bool(name) and is_label_value(name) and (not slash or is_subdomain(prefix))


def is_label_value(text: str) -> bool:
    """Whether a text may be the value of a label."""
    return _LABEL_VALUE.fullmatch(text) is not None


def is_env_name(text: object) -> bool:
    """Whether a text may name an environment variable on every version of Kubernetes."""
    return (
        isinstance(text, str)
        and _ENV_NAME.fullmatch(text) is not None
        and text != "."
        and not text.startswith("..")
    )


# --- the nearest valid text -----------------------------------------------------------------


def valid_label_value(text: str) -> str:
    """The nearest valid value of a label; "" where nothing is left."""
    # Cut first: a text may be as long as a znode, and the edges shorten it further.
    return _trimmed(_NOT_IN_VALUE.sub("-", text[: 16 * NAME_LENGTH]), NAME_LENGTH)


def valid_name(text: str, length: int = NAME_LENGTH, also: str = "") -> str:
    """The nearest valid DNS label of at most that length.

    ``also`` names further legal characters (``.`` for a DNS subdomain).
    """
    legal = re.sub(rf"[^a-z0-9{re.escape(also)}-]", "-", text.lower())
    if also:
        # Every part between two dots begins and ends like a name of its own.
        legal = re.sub(r"-*\.[.-]*", ".", legal)
    return _trimmed(legal, length) or "node"


def _trimmed(text: str, length: int) -> str:
    return _EDGES.sub("", _EDGES.sub("", text)[:length])
