"""Labels made from the request by an admin's format strings.

Whatever the format string and the request are, a launch must not fail by them, nor the
launcher: what cannot be made is left out and said, and a format string reaches nothing
but the attributes of a request that Nodepool documents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from nodepool_k8s.model import NodeRequest
from nodepool_k8s.names import is_label_key, valid_label_value

LONGEST_WIDTH = 256
"""More than a label can hold; without a bound, a width could ask for all the memory."""

_NUMBER = re.compile(r"\d+")
_KEY = re.compile(r"\[([^\]]*)\]")
_FIELD = re.compile(r"request\.(?P<attribute>\w+)(?P<items>(?:\[[^\]]*\])*)")


def dynamic_labels(
    formats: Mapping[str, str], request: NodeRequest | None
) -> tuple[dict[str, str], list[str]]:
    """Format every label; returns them, and one sentence for each that was left out.

    Without a request (a node kept ready of our own accord) there is nothing to format.
    """
    labels: dict[str, str] = {}
    warnings: list[str] = []
    if request is None:
        return labels, warnings
    formatter = _RequestFormatter(_attributes(request))
    for key, text in formats.items():
        try:
            labels[key] = _label(formatter, key, text)
        except Exception as error:
            # A format string can fail in as many ways as there are values and mistakes.
            warnings.append(f"dynamic label {key} is left out: {error!s:.200}")
    return labels, warnings


def _label(formatter: _RequestFormatter, key: str, text: str) -> str:
    if not is_label_key(key):
        raise ValueError("its name is not one that Kubernetes accepts")
    formatted = formatter.format(text)
    value = valid_label_value(formatted)
    if formatted and not value:
        raise ValueError(f"nothing of {formatted[:63]!r} can be the value of a label")
    return value


def _attributes(request: NodeRequest) -> dict[str, Any]:
    return {
        "id": request.id,
        "labels": list(request.node_types),
        "requestor": request.requestor,
        "requestor_data": request.requestor_data,
        "relative_priority": request.relative_priority,
        "event_id": request.event_id,
        "created_time": request.created_time,
        "tenant_name": request.tenant_name,
    }


class _RequestFormatter(Formatter):
    """Formats from a mapping of attributes: ``{request.id}``, ``{request.requestor_data[x]}``.

    Only ``request`` has attributes, and only those of the mapping; deeper values are
    reached by ``[...]`` in plain containers. No attribute of any object is ever read.
    """

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self._attributes = attributes

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        match = _FIELD.fullmatch(field_name)
        if match is None or match["attribute"] not in self._attributes:
            raise ValueError(f"there is no {field_name[:63]!r}")
        value = self._attributes[match["attribute"]]
        for key in _KEY.findall(match["items"]):
            value = _item(value, key)
        return value, field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if any(
            len(width) > 3 or int(width) > LONGEST_WIDTH for width in _NUMBER.findall(format_spec)
        ):
            raise ValueError(f"a width above {LONGEST_WIDTH}")
        return str(super().format_field(value, format_spec))


def _item(value: Any, key: str) -> Any:
    if isinstance(value, dict) and key in value:
        return value[key]
    if isinstance(value, list) and key.isdecimal() and len(key) < 10 and int(key) < len(value):
        return value[int(key)]
    raise ValueError(f"there is no [{key[:63]}] in it")
