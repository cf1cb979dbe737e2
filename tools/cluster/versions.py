"""Which versions are built, read from the files that pin them, and where their results are kept."""

import re
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
GO_MODULE = HERE / "kube"
JAVA_PROJECT = HERE / "java"
KWOK = "0.8.0"
KUSTOMIZE = "5.7.1"
GO_AT_LEAST = (1, 26)
JAVA_AT_LEAST = 11


def _required(module: str) -> str:
    text = (GO_MODULE / "go.mod").read_text(encoding="utf-8")
    found = re.search(rf"^require {re.escape(module)} v(\S+)$", text, re.MULTILINE)
    assert found, f"{module} is not in {GO_MODULE}/go.mod"
    return found.group(1)


def kubernetes() -> str:
    return _required("k8s.io/kubernetes")


def etcd() -> str:
    return _required("go.etcd.io/etcd/server/v3")


def zookeeper() -> str:
    text = (JAVA_PROJECT / "pom.xml").read_text(encoding="utf-8")
    found = re.search(r"<artifactId>zookeeper</artifactId>\s*<version>([^<]+)</version>", text)
    assert found, "zookeeper is not in pom.xml"
    return found.group(1)


def cache(environ: Mapping[str, str]) -> Path:
    """The folder for what is built or fetched once, with a subfolder for each version."""
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".cache"
    return Path(base) / "nodepool-k8s"
