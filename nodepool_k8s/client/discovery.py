"""Where ZooKeeper is: by an address, the environment, or a launcher's configuration file."""

from __future__ import annotations

import os
from collections.abc import Mapping

from nodepool_k8s.client.errors import NoZooKeeper
from nodepool_k8s.zookeeper_settings import (
    DEFAULT_CONFIG_FILE,
    ZooKeeperSettings,
    ZooKeeperTLS,
    tls_files,
    zookeeper_at,
)

ZOOKEEPER = "NODEPOOL_K8S_ZOOKEEPER"
TLS_CERT = "NODEPOOL_K8S_TLS_CERT"
TLS_KEY = "NODEPOOL_K8S_TLS_KEY"
TLS_CA = "NODEPOOL_K8S_TLS_CA"
CONFIG = "NODEPOOL_K8S_CONFIG"


def find_zookeeper(
    zookeeper: str | ZooKeeperSettings | None = None,
    *,
    tls: ZooKeeperTLS | None = None,
    config: str | None = None,
    secure: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ZooKeeperSettings:
    """The first that is given: ``zookeeper``, ``config``, the environment, the default file.

    Raises NoZooKeeper, BadAddress, ConfigError.
    """
    if isinstance(zookeeper, ZooKeeperSettings):
        return zookeeper
    files = tls or tls_files(environ.get(TLS_CERT), environ.get(TLS_KEY), environ.get(TLS_CA))
    if zookeeper:
        return zookeeper_at(zookeeper, files)
    if config is None and (address := environ.get(ZOOKEEPER)):
        return zookeeper_at(address, files)
    config = config or environ.get(CONFIG)
    if config is None and not os.path.exists(DEFAULT_CONFIG_FILE):
        raise NoZooKeeper(
            "nothing says where ZooKeeper is: name it (HOST:PORT[/CHROOT]), set "
            f"{ZOOKEEPER}, or name a configuration file (there is no {DEFAULT_CONFIG_FILE})"
        )
    # It is much to load for who does without.
    from nodepool_k8s.config import load

    return load(config or DEFAULT_CONFIG_FILE, secure, contexts=EveryContext).zookeeper


class EveryContext(set[str]):
    """Who only talks to ZooKeeper needs no kube/config."""

    def __contains__(self, name: object) -> bool:
        return True


def identity() -> str:
    """Who asks: the user, on this machine."""
    return f"{os.environ.get('USER', 'user')}@{os.uname().nodename}"
