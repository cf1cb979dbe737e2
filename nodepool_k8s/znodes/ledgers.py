"""Quota ledgers as JSON."""

from __future__ import annotations

from nodepool_k8s.model import (
    Resources,
)
from nodepool_k8s.znodes.encoding import decode, encode, thousandths


def parse_ledger(data: bytes) -> Resources:
    """Read a ledger: what its claimed nodes hold, in thousandths.

    Raises MalformedRecord; an empty znode is an empty ledger.
    """
    if not data:
        return Resources()
    return Resources(thousandths(decode(data, "quota ledger").get("claimed", {}), "quota ledger"))


def encode_ledger(claimed: Resources) -> bytes:
    """Write a ledger."""
    return encode({"claimed": dict(claimed)})
