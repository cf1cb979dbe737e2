"""One cluster's folder, keys and ports: what descriptions of processes are made from."""

from dataclasses import dataclass, field
from pathlib import Path

from harness import kubeconfig

from . import ports
from .layout import Layout
from .pki import Pki

CONTEXT = "local"


@dataclass
class Site:
    """Filled in while a cluster comes up; later parts read what earlier ones wrote."""

    layout: Layout
    pki: Pki
    nodes: str
    binaries: dict[str, str]
    java: str = ""
    jars: list[str] = field(default_factory=list)
    stages: Path | None = None
    socket_folder: str = ""
    subnet: str = ""
    ports: dict[str, int] = field(default_factory=dict)

    def claim_ports(self, *names: str) -> dict[str, int]:
        """Fresh ports under these names, noted for those who connect to them."""
        fresh = ports.allocate(names)
        self.ports.update(fresh)
        return fresh

    @property
    def api_server_url(self) -> str:
        return f"https://{ports.HOST}:{self.ports['kube-apiserver']}"

    def write_kubeconfig(self, path: Path, user: str) -> str:
        """Write a kubeconfig for the certificate named `user`; its path as text."""
        credentials = {
            "client-certificate": self.pki.cert(user),
            "client-key": self.pki.key(user),
        }
        kubeconfig.write(
            path, CONTEXT, self.api_server_url, credentials, certificate_authority=self.pki.ca
        )
        return str(path)

    def kubeconfig_of(self, user: str) -> str:
        return self.write_kubeconfig(self.layout.config / f"{user}.kubeconfig", user)
