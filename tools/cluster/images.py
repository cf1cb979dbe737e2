"""Builds the images that a real node runs, from Debian's static busybox."""

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

PAUSE = "registry.k8s.io/pause:3.10"
BUSYBOX = "docker.io/library/busybox:1.35"
# The image of the example in Nodepool's documentation, so that such a label runs here.
FEDORA = "docker.io/library/fedora:28"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_FOLDERS = ("bin", "etc", "root", "tmp")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "bin/bash": '#!/bin/sh\nexec /bin/sh "$@"\n',
}


def build(busybox: Path, folder: Path) -> list[Path]:
    """Write the archives; `ctr images import` takes them."""
    layer = _layer(busybox)
    folder.mkdir(parents=True, exist_ok=True)
    # The pause container holds the network; it is stopped by a signal that sleep must see.
    pause = _archive([PAUSE], ["/bin/sleep", "2147483647"], layer)
    shell = _archive([BUSYBOX, FEDORA], ["/bin/sh"], layer)
    paths = {folder / "pause.tar": pause, folder / "busybox.tar": shell}
    for path, content in paths.items():
        path.write_bytes(content)
    return list(paths)


def _layer(busybox: Path) -> bytes:
    listing = subprocess.run([str(busybox), "--list"], check=True, capture_output=True, text=True)
    applets = [name for name in listing.stdout.split() if name != "busybox"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in _FOLDERS:
            tar.addfile(_entry(name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755))
        _add(tar, "bin/busybox", busybox.read_bytes(), 0o755)
        for name, text in _FILES.items():
            _add(tar, name, text.encode(), 0o755 if name.startswith("bin/") else 0o644)
        for name in applets:
            link = _entry(f"bin/{name}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            tar.addfile(link)
    return buffer.getvalue()


def _archive(tags: Sequence[str], entrypoint: Sequence[str], layer: bytes) -> bytes:
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Entrypoint": list(entrypoint), "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": "2026-01-01T00:00:00Z"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": list(tags), "Layers": ["layer.tar"]}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add(tar, "manifest.json", json.dumps(manifest).encode(), 0o644)
        _add(tar, "config.json", json.dumps(config).encode(), 0o644)
        _add(tar, "layer.tar", layer, 0o644)
    return buffer.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = _entry(name, tarfile.REGTYPE, mode)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
