"""Names and values that Kubernetes accepts, made from text that it would refuse."""

from __future__ import annotations

import re

NAME_LENGTH = 63
"""The longest DNS label, and the longest value of a label."""

_EDGES = re.compile(r"^[^A-Za-z0-9]+|[^A-Za-z0-9]+$")
_NOT_IN_VALUE = re.compile(r"[^A-Za-z0-9._-]")
_PREFIX = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
_KEY = re.compile(
    rf"(?:(?=.{{1,253}}/){_PREFIX}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?"
)


def valid_label_value(text: str) -> str:
    """Turn any text into the nearest valid value of a Kubernetes label; "" where none is left."""
    # Cut first: a text may be as long as a znode, and the edges shorten it further.
    return _trimmed(_NOT_IN_VALUE.sub("-", text[: 16 * NAME_LENGTH]), NAME_LENGTH)


def is_label_key(text: str) -> bool:
    """Whether Kubernetes accepts it as the key of a label or an annotation."""
    return _KEY.fullmatch(text) is not None


def valid_name(text: str, length: int = NAME_LENGTH, also: str = "") -> str:
    """Turn any text into the nearest valid DNS label of at most that length.

    ``also`` names further legal characters (``.`` for a DNS subdomain).
    """
    legal = re.sub(rf"[^a-z0-9{re.escape(also)}-]", "-", text.lower())
    if also:
        # Every part between two dots begins and ends like a name of its own.
        legal = re.sub(r"-*\.[.-]*", ".", legal)
    return _trimmed(legal, length) or "node"


def _trimmed(text: str, length: int) -> str:
    return _EDGES.sub("", _EDGES.sub("", text)[:length])
