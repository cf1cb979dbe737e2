"""Nodepool itself, the peer, beside which benchmarks and tests run ours.

Installed into an environment of its own, and started with files that it accepts.
"""

from .environment import VERSION, PeerError, environment

__all__ = ["VERSION", "PeerError", "environment"]
