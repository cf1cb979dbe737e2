"""How to connect to ZooKeeper, and the default path of the configuration.

Separate from the other settings, so that a program that only requests nodes does not load
them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nodepool_k8s.errors import NodepoolK8sError

DEFAULT_CONFIG_FILE = "/etc/nodepool/nodepool.yaml"

DEFAULT_PORT = 2181
"""ZooKeeper's own default; ``zookeeper-servers`` defaults to the TLS port instead."""


class BadAddress(NodepoolK8sError):
    """An invalid ZooKeeper address, or incomplete TLS files."""


DEFAULT_SESSION_SECONDS = 10.0
"""The default of ``zookeeper-timeout``, also for clients without a configuration."""


@dataclass(frozen=True, slots=True)
class ZooKeeperServer:
    """One entry of ``zookeeper-servers``."""

    host: str
    port: int = 2281
    chroot: str = ""


@dataclass(frozen=True, slots=True)
class ZooKeeperTLS:
    """``zookeeper-tls``: paths of PEM files."""

    cert: str
    key: str
    ca: str


@dataclass(frozen=True, slots=True)
class ZooKeeperSettings:
    """How to connect to ZooKeeper. ``timeout`` is the session timeout in seconds."""

    servers: tuple[ZooKeeperServer, ...]
    tls: ZooKeeperTLS | None = None
    timeout: float = DEFAULT_SESSION_SECONDS

    @property
    def hosts(self) -> str:
        """The servers in kazoo's form, with the chroot once at the end."""
        servers = ",".join(
            f"[{server.host}]:{server.port}"
            if ":" in server.host
            else f"{server.host}:{server.port}"
            for server in self.servers
        )
        chroot = self.servers[0].chroot.strip("/")
        return f"{servers}/{chroot}" if chroot else servers


_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/,\s]+)(?::([0-9]{1,5}))?")


def zookeeper_at(text: str, tls: ZooKeeperTLS | None = None) -> ZooKeeperSettings:
    """Read ``HOST[:PORT][,HOST[:PORT]...][/CHROOT]``, as kazoo and Zuul write it.

    Raises BadAddress.
    """
    hosts, slash, chroot = text.strip().partition("/")
    servers = []
    for host in hosts.split(","):
        match = _SERVER.fullmatch(host.strip())
        port = int(match[2] or DEFAULT_PORT) if match else 0
        if match is None or not 0 < port < 65536:
            raise BadAddress(
                f"{text!r:.200} is not a ZooKeeper address; expected "
                "HOST:PORT[,HOST:PORT...][/CHROOT]"
            )
        servers.append(ZooKeeperServer(match[1].strip("[]"), port, f"{slash}{chroot}"))
    return ZooKeeperSettings(tuple(servers), tls)


def tls_files(cert: str | None, key: str | None, ca: str | None) -> ZooKeeperTLS | None:
    """All three files, or None if none is given. Raises BadAddress if some are missing."""
    if not (cert or key or ca):
        return None
    if cert and key and ca:
        return ZooKeeperTLS(cert, key, ca)
    given = {"cert": cert, "key": key, "ca": ca}
    missing = ", ".join(name for name, value in given.items() if not value)
    raise BadAddress(f"ZooKeeper's TLS needs cert, key and ca; {missing} is missing")
