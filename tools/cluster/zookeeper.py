"""One ZooKeeper server with a plain and a TLS port."""

from pathlib import Path

from .ports import HOST
from .site import Site
from .state import Probe, Service

HEAP = "512m"


def zookeeper(site: Site) -> Service:
    """Only the Netty connection factory serves both ports at once."""
    claimed = site.claim_ports("zookeeper", "zookeeper-tls")
    config = site.layout.config / "zoo.cfg"
    _write_config(config, site, claimed)
    return Service(
        name="zookeeper",
        argv=[
            site.java,
            f"-Xmx{HEAP}",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-cp",
            ":".join(site.jars),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(config),
        ],
        log=str(site.layout.log("zookeeper")),
        probe=Probe("zookeeper", f"{HOST}:{claimed['zookeeper']}"),
        ports=claimed,
    )


def _write_config(path: Path, site: Site, claimed: dict[str, int]) -> None:
    settings = {
        "tickTime": "2000",
        "dataDir": site.layout.data / "zookeeper",
        "clientPort": claimed["zookeeper"],
        "clientPortAddress": HOST,
        "secureClientPort": claimed["zookeeper-tls"],
        "secureClientPortAddress": HOST,
        "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
        "ssl.keyStore.location": site.pki.bundle("zookeeper"),
        "ssl.keyStore.type": "PEM",
        "ssl.trustStore.location": site.pki.ca,
        "ssl.trustStore.type": "PEM",
        "ssl.clientAuth": "need",
        "maxClientCnxns": "0",
        "admin.enableServer": "false",
        "forceSync": "no",
        "4lw.commands.whitelist": "*",
    }
    lines = [f"{key}={value}\n" for key, value in settings.items()]
    path.write_text("".join(lines), encoding="utf-8")
