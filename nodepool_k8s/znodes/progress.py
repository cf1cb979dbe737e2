"""Progress records of waiting requests, as JSON."""

from __future__ import annotations

from nodepool_k8s.errors import MalformedRecord
from nodepool_k8s.model import (
    Phase,
    Progress,
)
from nodepool_k8s.znodes.encoding import decode, encode, optional_number, optional_string


def encode_progress(progress: Progress) -> bytes:
    """Write what a request waits for; fields that do not apply are left out."""
    fields = {
        "state": progress.phase.value,
        "pool": progress.pool,
        "position": progress.position,
        "node": progress.node,
        "step": progress.step,
        "why": progress.why,
    }
    return encode({key: value for key, value in fields.items() if value is not None})


def parse_progress(request_id: str, data: bytes) -> Progress:
    """Read what a request waits for.

    Raises MalformedRecord if it is not a JSON object or has no known state; any other
    unreadable field counts as missing.
    """
    what = f"the progress of request {request_id}"
    raw = decode(data, what)
    try:
        phase = Phase(str(raw.get("state")))
    except ValueError as error:
        expected = " or ".join(Phase)
        raise MalformedRecord(
            f"{what} has state {raw.get('state')!r:.40}; expected {expected}"
        ) from error
    position = optional_number(raw.get("position"))
    return Progress(
        phase=phase,
        pool=optional_string(raw.get("pool")) or "",
        why=optional_string(raw.get("why")) or "",
        position=int(position) if position is not None and position >= 1 else None,
        node=optional_string(raw.get("node")),
        step=optional_string(raw.get("step")),
    )
