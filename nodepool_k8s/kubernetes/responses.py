"""Errors for an API server's responses. They never contain a header or a body."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from nodepool_k8s.errors import ApiError, ClusterUnreachable, NotFound, describe

LONGEST_RETRY_AFTER = 60.0
"""Seconds. Longer pauses are cut to this: the answer may be a failing proxy's."""
MESSAGE_LENGTH = 4096


def loads(text: str | bytes) -> Any:
    """Parse JSON; raises ValueError if it is malformed or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def api_error(response: aiohttp.ClientResponse, answer: bytes) -> ApiError:
    """Translate a Status object, or a proxy's answer in its place."""
    try:
        status = loads(answer)
    except ValueError:
        status = None
    if isinstance(status, dict):
        reason, message = _text(status.get("reason")), _text(status.get("message"))
    else:
        reason, message = "", answer[:200].decode("utf-8", "replace").strip()
    kind = NotFound if response.status == 404 else ApiError
    retry_after = _seconds(response.headers.get("Retry-After", ""))
    return kind(response.status, reason or response.reason or "", message, retry_after)


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return value if len(value) <= MESSAGE_LENGTH else value[:MESSAGE_LENGTH] + "..."


def _seconds(retry_after: str) -> float | None:
    """Only seconds are read: a date would need the server's clock."""
    if not (retry_after.isascii() and retry_after.isdigit()):
        return None
    return min(float(retry_after), LONGEST_RETRY_AFTER)


def unreachable(error: BaseException) -> ClusterUnreachable:
    """The error for a call that got no answer."""
    return ClusterUnreachable(f"the API server cannot be reached: {describe(error)}")
