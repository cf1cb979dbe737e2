"""Free loopback ports. A port is only known to be free at the moment of asking."""

import contextlib
import socket
from collections.abc import Sequence

HOST = "127.0.0.1"
# What etcd, the Kubernetes binaries, containerd and the JVM log when a port is taken.
_TAKEN = ("address already in use", "bindexception")


def allocate(names: Sequence[str]) -> dict[str, int]:
    """One free port for each name, all different."""
    with contextlib.ExitStack() as held:
        # All are kept open until each has one, or the kernel could assign one twice.
        return {name: _bind(held) for name in names}


def _bind(held: contextlib.ExitStack) -> int:
    listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    listener.bind((HOST, 0))
    return int(listener.getsockname()[1])


def was_taken(log: str) -> bool:
    """Whether a process's log says that it could not have its port."""
    return any(phrase in log.lower() for phrase in _TAKEN)
