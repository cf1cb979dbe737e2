"""What a cluster consists of, written to its folder: enough to watch it and to take it down."""

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ClusterError

VERSION = 1


@dataclass(frozen=True)
class Probe:
    """How to probe a process's health: see probing.py for the kinds."""

    kind: str
    address: str
    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass
class Service:
    """A process of the cluster: how to start it, and which one runs now (pid 0: stopped)."""

    name: str
    argv: list[str]
    log: str
    probe: Probe
    ports: dict[str, int] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    # With the pid, so that another process which got the same pid later is never mistaken for it.
    started: float = 0.0


@dataclass
class Endpoints:
    """What a user of the cluster needs."""

    kubeconfig: str
    context: str
    api_server_url: str
    zookeeper: str
    nodes: str
    image: str
    zookeeper_tls: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""


@dataclass
class State:
    """One cluster, whole or half-started."""

    source: str
    nodes: str
    ready: bool = False
    endpoints: Endpoints | None = None
    services: list[Service] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)
    socket_folder: str = ""
    subnet: str = ""
    ip_forward: str = ""

    def service(self, name: str) -> Service:
        for service in self.services:
            if service.name == name:
                return service
        known = ", ".join(service.name for service in self.services)
        raise ClusterError(f"no process named {name!r} here; there are: {known}")


def save(path: Path, state: State) -> None:
    """Replace the file in one step, so that a reader never sees half of it."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    document = {"version": VERSION, **dataclasses.asdict(state)}
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def load(path: Path) -> State | None:
    """The saved state, or None without a cluster."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ClusterError(
            f"{path} is not readable as JSON ({error}); repair or remove it"
        ) from error
    if document.pop("version", None) != VERSION:
        raise ClusterError(
            f"{path} was written by another version of this tool; run that version's down"
        )
    endpoints = document.pop("endpoints")
    services = document.pop("services")
    return State(
        endpoints=Endpoints(**endpoints) if endpoints else None,
        services=[_service(entry) for entry in services],
        **document,
    )


def _service(entry: dict[str, Any]) -> Service:
    return Service(probe=Probe(**entry.pop("probe")), **entry)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder against another `up` or `down`; the lock is on the folder itself."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(handle, folder)
            # A `down` may have removed the folder while we waited; then the lock locks nothing.
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                yield
                return
        finally:
            os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ClusterError(
            f"another command is bringing {folder} up or down; wait until it has ended"
        ) from error
