"""Decides where a cluster comes from and which nodes it gets. No IO: facts in, choice out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError

KUBECONFIG = "KUBECONFIG"
ZOOKEEPER = "NODEPOOL_K8S_ZOOKEEPER"

ENVIRONMENT = "environment"
DOCKER = "docker"
PROCESSES = "processes"

FAKE = "fake"
REAL = "real"
AUTO = "auto"
KINDS = (FAKE, REAL, AUTO)


@dataclass(frozen=True)
class Choice:
    """A decision, and the reason that the user is shown."""

    value: str
    reason: str


def named_by_environment(environ: Mapping[str, str], folder: Path) -> bool:
    """Whether the environment names a cluster of the user's.

    What `env` printed for this folder does not count.
    """
    kubeconfig = environ.get(KUBECONFIG, "")
    if kubeconfig and Path(kubeconfig).absolute() == (folder / "kubeconfig").absolute():
        return False
    hosts = environ.get(ZOOKEEPER, "")
    if kubeconfig and hosts:
        return True
    if hosts:
        raise ClusterError(
            f"{ZOOKEEPER} is set, but {KUBECONFIG} is not: set both, to use a cluster of yours, "
            "or neither"
        )
    # Many people have KUBECONFIG set to something that tests should never touch.
    return False


def choose_source(
    environ: Mapping[str, str], folder: Path, nodes: str, *, docker_answers: bool
) -> Choice:
    """Which of the three sources serves, in the order of the documentation."""
    if named_by_environment(environ, folder):
        return Choice(ENVIRONMENT, f"{KUBECONFIG} and {ZOOKEEPER} name a cluster")
    if docker_answers and nodes != FAKE:
        return Choice(DOCKER, "a Docker engine answers")
    if docker_answers:
        return Choice(PROCESSES, "k3s in Docker has a real node only; fake ones are our own")
    return Choice(PROCESSES, "no Docker engine answers")


def choose_nodes(requested: str, obstacle: str) -> Choice:
    """Real nodes unless there is an obstacle, which `obstacle` describes."""
    if requested == FAKE:
        return Choice(FAKE, "asked for")
    if not obstacle:
        return Choice(REAL, "asked for" if requested == REAL else "this machine can run one")
    if requested == REAL:
        raise ClusterError(f"a real node cannot run here: {obstacle}")
    return Choice(FAKE, f"a real node cannot run here: {obstacle}")
