"""Nodepool itself, the peer: for the benchmark to be measured beside, for tests to run beside.

Installed into an environment of its own, and started with files that it accepts.
"""

from .environment import VERSION, PeerError, environment

__all__ = ["VERSION", "PeerError", "environment"]
