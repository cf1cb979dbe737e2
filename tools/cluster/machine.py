"""Whether this machine can run a real node; installs packages if these suffice."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import debian, namespace
from .errors import ClusterError
from .progress import Progress

CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
CNI_PLUGINS = ("ptp", "host-local", "loopback")
TOOLS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "busybox": "busybox-static",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}
TRIAL_S = 10


def obstacle(folder: Path, progress: Progress) -> str:
    """Why a real node cannot run in `folder`; empty if it can."""
    if sys.platform != "linux":
        return "it takes Linux"
    if os.geteuid() != 0:
        return _not_root()
    if any(folder.resolve().is_relative_to(path) for path in namespace.OVERLAID):
        return f"the cluster's folder must not be below {', '.join(namespace.OVERLAID)}"
    return _refused_mounts(folder) or _missing_packages(progress)


def missing_packages() -> list[str]:
    """The Debian packages of missing programs."""
    missing = {package for tool, package in TOOLS.items() if not shutil.which(tool)}
    if not cni_folder():
        missing.add("containernetworking-plugins")
    return sorted(missing)


def cni_folder() -> Path | None:
    """Where the network plugins are."""
    for folder in CNI_FOLDERS:
        if all((folder / plugin).exists() for plugin in CNI_PLUGINS):
            return folder
    return None


def _not_root() -> str:
    missing = missing_packages()
    install = f"; what it needs besides: {debian.command(missing)}" if missing else ""
    return f"it takes root{install}"


def _refused_mounts(folder: Path) -> str:
    # In the cluster's folder, because some file systems cannot be under an overlay.
    nearest = next(path for path in (folder, *folder.parents) if path.is_dir())
    try:
        namespace.try_out(nearest, TRIAL_S)
    except FileNotFoundError:
        return f"unshare is missing; on Debian: {debian.command(['util-linux'])}"
    except subprocess.SubprocessError as error:
        told = getattr(error, "stderr", None) or str(error)
        return f"this container or kernel does not let it mount ({told.strip()})"
    return ""


def _missing_packages(progress: Progress) -> str:
    missing = missing_packages()
    if not missing:
        return ""
    try:
        debian.install(missing, "a real node", progress)
    except ClusterError as error:
        return str(error)
    left = missing_packages()
    return f"still missing after installing: {', '.join(left)}" if left else ""
