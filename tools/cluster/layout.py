"""The paths below one cluster's folder."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

# The kernel allows 107 characters in a unix socket's path; containerd adds a suffix to its own.
SOCKET_PATH_MAX = 90


@dataclass(frozen=True)
class Layout:
    """The folder of one cluster."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def short_name(self) -> str:
        """Names what cannot be put below the folder: cgroups and network names."""
        digest = hashlib.sha256(os.fsencode(self.folder.resolve())).hexdigest()
        return f"npk8s-{digest[:8]}"

    def log(self, service: str) -> Path:
        return self.logs / f"{service}.log"

    def make(self) -> None:
        """Create the folders that everything else is written into."""
        for path in (self.folder, self.pki, self.logs, self.config, self.data):
            path.mkdir(parents=True, exist_ok=True)
        self.pki.chmod(0o700)

    def make_socket_folder(self) -> Path:
        """A folder whose sockets' paths are short enough; it may be outside of the cluster's."""
        inside = self.folder.resolve() / "run"
        if len(str(inside)) <= SOCKET_PATH_MAX - len("/containerd.sock.ttrpc"):
            inside.mkdir(exist_ok=True)
            return inside
        return Path(tempfile.mkdtemp(prefix="npk8s-", dir="/tmp"))

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
