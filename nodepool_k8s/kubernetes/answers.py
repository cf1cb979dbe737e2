"""What an API server answers that is no success, as our errors. Never holds a header or a body."""

from __future__ import annotations

import json

import aiohttp

from nodepool_k8s.errors import ApiError, ClusterUnreachable, NotFound, describe


def api_error(response: aiohttp.ClientResponse, answer: bytes) -> ApiError:
    """Translate a Status object, or whatever a proxy answered in its place."""
    reason, message = response.reason or "", ""
    try:
        status = json.loads(answer)
        reason, message = status.get("reason") or reason, status.get("message") or ""
    except (ValueError, AttributeError):
        message = answer[:200].decode("utf-8", "replace").strip()
    kind = NotFound if response.status == 404 else ApiError
    retry_after = response.headers.get("Retry-After", "")
    return kind(
        response.status, reason, message, float(retry_after) if retry_after.isdigit() else None
    )


def unreachable(error: BaseException) -> ClusterUnreachable:
    """Say that there was no answer, and why."""
    return ClusterUnreachable(f"the API server cannot be reached: {describe(error)}")
