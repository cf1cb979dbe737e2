"""Health probes of the processes, in the kinds that `KINDS` has."""

import http.client
import os
import socket
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from .state import Probe

TIMEOUT_S = 2.0


def healthy(probe: Probe) -> bool:
    """One probe, answered within TIMEOUT_S."""
    try:
        return KINDS[probe.kind](probe)
    except (OSError, http.client.HTTPException):
        return False


def tls_context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    """Trusts `ca` only; without one nothing is checked, which is for self-signed loopback ports."""
    context = ssl.create_default_context(cafile=ca or None)
    if not ca:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert:
        context.load_cert_chain(cert, key)
    return context


def _http(probe: Probe) -> bool:
    url = urlsplit(probe.address)
    host, port = url.hostname or "", url.port
    connection = (
        http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_S, context=tls_context(probe.ca, probe.cert, probe.key)
        )
        if url.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    )
    try:
        connection.request("GET", url.path)
        return connection.getresponse().status == http.client.OK
    finally:
        connection.close()


def _zookeeper(probe: Probe) -> bool:
    host, port = probe.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
        connection.sendall(b"ruok")
        return connection.recv(4) == b"imok"


def _unix(probe: Probe) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(probe.address)
        return True


def _file(probe: Probe) -> bool:
    """For a process without an endpoint: whether it has created a file."""
    return os.path.exists(probe.address)


KINDS: dict[str, Callable[[Probe], bool]] = {
    "http": _http,
    "zookeeper": _zookeeper,
    "unix": _unix,
    "file": _file,
}
