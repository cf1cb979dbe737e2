"""Finds ZooKeeper by an address, the environment, or a launcher's configuration file."""

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
    """The first of these: ``zookeeper``, ``config``, the environment, the default file.

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
            "the ZooKeeper servers are unknown: give their address (HOST:PORT[/CHROOT]), set "
            f"{ZOOKEEPER}, or give a configuration file ({DEFAULT_CONFIG_FILE} does not exist)"
        )
    # Imported here because it is slow, and not needed for an address.
    from nodepool_k8s.config import load

    return load(config or DEFAULT_CONFIG_FILE, secure, contexts=EveryContext).zookeeper


class EveryContext(set[str]):
    """Contains every context: a program that only uses ZooKeeper needs no kubeconfig."""

    def __contains__(self, name: object) -> bool:
        return True


def identity() -> str:
    """The default name of a requestor: the user on this machine."""
    return f"{os.environ.get('USER', 'user')}@{os.uname().nodename}"
