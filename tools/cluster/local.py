"""LocalCluster: one local cluster in one folder, for fixtures, the demo, the bench and people."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from . import docker, environment, machine, probing, processes, sources, state
from .errors import ClusterError
from .layout import Layout
from .progress import Progress, Quiet
from .stack import Stack
from .state import Endpoints, State

ANSWER_PATIENCE_S = 10.0
POLL_S = 0.1


class LocalCluster:
    """Brings a cluster up and down, and has its addresses in between. Also a context manager."""

    def __init__(
        self, folder: Path, nodes: str = sources.AUTO, environ: Mapping[str, str] | None = None
    ) -> None:
        if nodes not in sources.KINDS:
            raise ClusterError(f"nodes is {nodes!r}; expected one of {', '.join(sources.KINDS)}")
        # Absolute, for the processes' own paths; `down` may be called from another folder.
        self._layout = Layout(folder.absolute())
        self._requested = nodes
        self._environ = os.environ if environ is None else environ
        self._state = state.load(self._layout.state)

    def __enter__(self) -> "LocalCluster":
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self, progress: Progress | None = None) -> None:
        """Bring it up, unless it is; if that fails, everything is removed again."""
        progress = progress or Quiet()
        if sources.named_by_environment(self._environ, self._layout.folder):
            self._state = environment.adopt(self._environ)
            progress.say("using the cluster that the environment names")
            return
        if self._is_up(progress):
            return
        with state.locked(self._layout.folder):
            # Another command may have brought it up while this one looked.
            self._state = state.load(self._layout.state)
            if self._state is not None:
                raise ClusterError(f"another command uses {self._layout.folder}; try again")
            self._check_empty()
            try:
                self._up(progress)
            except BaseException:
                self._tear_down(progress)
                raise

    def down(self, progress: Progress | None = None) -> None:
        """Take down what is in the folder; a cluster that the environment named stays."""
        if not self._layout.folder.exists():
            self._state = None
            return
        with state.locked(self._layout.folder):
            self._state = state.load(self._layout.state)
            self._tear_down(progress or Quiet())

    def status(self) -> list[tuple[state.Service, bool]]:
        """Each process, and whether it is healthy."""
        services = self._state.services if self._state else []
        return [(each, processes.alive(each) and probing.healthy(each.probe)) for each in services]

    @property
    def is_up(self) -> bool:
        """Whether it came up completely and all of its processes are healthy."""
        if self._state is None or not self._state.ready:
            return False
        if self._state.source == sources.DOCKER:
            return docker.healthy(self._state)
        return all(well for _, well in self.status())

    def stop(self, name: str) -> None:
        """Stop one process (a name as in `status`), or the container that it runs in."""
        self._backend().stop(name)

    def start(self, name: str) -> None:
        """Start it again on the same ports and data, and wait until it is healthy."""
        self._backend().start(name)

    def pause(self, name: str) -> None:
        """Freeze it: its connections stay open and nothing answers."""
        self._backend().pause(name)

    def resume(self, name: str) -> None:
        """Continue a paused process."""
        self._backend().resume(name)

    @property
    def endpoints(self) -> Endpoints:
        if self._state is None or self._state.endpoints is None:
            raise ClusterError(f"no cluster is up in {self._layout.folder}; bring it up first")
        return self._state.endpoints

    @property
    def kubeconfig(self) -> Path:
        return Path(self.endpoints.kubeconfig)

    @property
    def context(self) -> str:
        return self.endpoints.context

    @property
    def api_server_url(self) -> str:
        return self.endpoints.api_server_url

    @property
    def zookeeper(self) -> str:
        return self.endpoints.zookeeper

    @property
    def zookeeper_tls(self) -> str:
        return self.endpoints.zookeeper_tls

    @property
    def zookeeper_tls_files(self) -> tuple[Path, Path, Path]:
        """The paths of the authority, the client's certificate and its key."""
        found = self.endpoints
        return Path(found.tls_ca), Path(found.tls_cert), Path(found.tls_key)

    @property
    def nodes(self) -> str:
        """`fake` or `real`."""
        return self.endpoints.nodes

    @property
    def image(self) -> str:
        """An image that a pod can run here without a registry."""
        return self.endpoints.image

    def _is_up(self, progress: Progress) -> bool:
        self._state = state.load(self._layout.state)
        if self._state is None:
            return False
        if not self._state.ready or self._is_partly_dead():
            progress.say("an earlier cluster is incomplete: taking it down first")
            self.down(progress)
            return False
        self._check_answering()
        if self._requested not in (sources.AUTO, self._state.nodes):
            raise ClusterError(
                f"a cluster with {self._state.nodes} nodes is up in {self._layout.folder}; "
                "take it down first, or name another folder"
            )
        progress.say(f"already up, with {self._state.nodes} nodes")
        return True

    def _is_partly_dead(self) -> bool:
        if self._state is not None and self._state.source == sources.DOCKER:
            return not docker.healthy(self._state)
        return not all(processes.alive(service) for service, _ in self.status())

    def _check_answering(self) -> None:
        # Not taken down: it may be busy, or paused on purpose.
        deadline = time.monotonic() + ANSWER_PATIENCE_S
        while silent := [service.name for service, well in self.status() if not well]:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"a cluster is up in {self._layout.folder}, but {', '.join(silent)} "
                    "does not answer; take it down, and up again"
                )
            time.sleep(POLL_S)

    def _check_empty(self) -> None:
        # `down` will remove the folder with all that is in it.
        if any(self._layout.folder.iterdir()):
            raise ClusterError(
                f"{self._layout.folder} is not empty and no cluster's; name another folder"
            )

    def _up(self, progress: Progress) -> None:
        source = sources.choose_source(
            self._environ,
            self._layout.folder,
            self._requested,
            docker_answers=docker.answers(self._environ),
        )
        if source.value == sources.DOCKER:
            progress.say(f"cluster from Docker: {source.reason}")
            self._state = State(source.value, sources.REAL)
        else:
            obstacle = "" if self._requested == sources.FAKE else self._obstacle(progress)
            nodes = sources.choose_nodes(self._requested, obstacle)
            progress.say(f"cluster of our own processes: {source.reason}")
            progress.say(f"{nodes.value} nodes: {nodes.reason}")
            self._state = State(source.value, nodes.value)
        self._layout.make()
        state.save(self._layout.state, self._state)
        self._backend().up(progress)

    def _obstacle(self, progress: Progress) -> str:
        return machine.obstacle(self._layout.folder, progress)

    def _tear_down(self, progress: Progress) -> None:
        if self._state is None:
            # Only the folder that was made to be locked, or what a user put there: not ours.
            if not any(self._layout.folder.iterdir()):
                self._layout.remove()
            return
        with progress.step("taking the cluster down"):
            self._backend().down(progress)
        self._state = None

    def _backend(self) -> "Stack | docker.DockerStack":
        if self._state is None:
            raise ClusterError(f"no cluster is up in {self._layout.folder}; bring it up first")
        if self._state.source == sources.ENVIRONMENT:
            raise ClusterError("a cluster that the environment names is not ours to stop or start")
        if self._state.source == sources.DOCKER:
            return docker.DockerStack(self._layout, self._state)
        return Stack(self._layout, self._state, self._environ)
