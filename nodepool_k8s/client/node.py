"""A node that we hold: run commands on it, copy files, keep it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Coroutine,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from nodepool_k8s import model
from nodepool_k8s.aio import race
from nodepool_k8s.client import transfer
from nodepool_k8s.client.command import Output, Result, Stdin
from nodepool_k8s.client.errors import CommandFailed, CommandTimedOut, NodeLost, NoPod
from nodepool_k8s.client.framing import FramedCommand, OutputComplete, ReadOnceSource
from nodepool_k8s.errors import CommandNotStarted

if TYPE_CHECKING:
    from nodepool_k8s.kubernetes.exec import NodeApi, Sink
    from nodepool_k8s.zookeeper.client import ZooKeeperSession

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeepRequest:
    """How to hold a node after its block; ``seconds`` None means until it is deleted."""

    comment: str
    seconds: int | None


class RemoteNode:
    """A node that we hold. All of its methods raise NodeLost once we no longer hold it."""

    def __init__(self, node: model.Node, session: ZooKeeperSession) -> None:
        self._node = node
        self._session = session
        self._api: NodeApi | None = None
        self.kept: KeepRequest | None = None

    def __repr__(self) -> str:
        return f"<Node {self.id} {self.label} in {self.namespace}>"

    @property
    def id(self) -> str:
        """The node id, as ``nodepool-k8s list`` shows it."""
        return self._node.id

    @property
    def label(self) -> str:
        """The label that was requested."""
        return self._node.type[0] if self._node.type else ""

    @property
    def provider(self) -> str:
        """The name of the node's provider."""
        return self._node.provider or ""

    @property
    def namespace(self) -> str:
        """The node's namespace in the cluster."""
        return str(self._connection.get("namespace") or "")

    @property
    def pod(self) -> str | None:
        """The pod's name; None for a namespace label's node."""
        return self._connection.get("pod")

    @property
    def connection(self) -> Mapping[str, Any]:
        """The API server, credentials included, in the form of Nodepool's records."""
        return dict(self._connection)

    @property
    def _connection(self) -> Mapping[str, Any]:
        found = self._node.extra.get("connection_port")
        return found if isinstance(found, dict) else {}

    def require_pod(self) -> str:
        """The pod's name. Raises NoPod."""
        if self.pod:
            return self.pod
        raise NoPod(
            f"label {self.label} provides a namespace without a pod, so no command can run; "
            "request a label of type pod"
        )

    # --- commands ---------------------------------------------------------------------------

    async def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: Stdin | None = None,
        stdout: Output | None = None,
        stderr: Output | None = None,
        timeout: float | None = None,
        check: bool = False,
        container: str | None = None,
    ) -> Result:
        """Run a command in the pod until it ends.

        Its output is returned, or passed chunk by chunk to ``stdout`` and ``stderr``.
        ``env`` needs ``env`` in the image, ``cwd`` needs ``sh``. After ``timeout`` seconds
        the command is no longer waited for, but may run on. With ``check`` a status other
        than 0 is an error.

        Raises CommandTimedOut, CommandFailed, CommandNotStarted, CommandError, NoPod,
        NodeLost, KubernetesError, and any error that ``stdin`` or an output raises.
        """
        full_command = _full_command(command, env or {}, cwd)
        captured: tuple[list[bytes], list[bytes]] = ([], [])
        sinks = [
            _sink(output or chunks.append)
            for output, chunks in zip((stdout, stderr), captured, strict=True)
        ]
        try:
            async with asyncio.timeout(timeout) as limit:
                status = await self._execute(full_command, stdin, sinks, container)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise CommandTimedOut(f"{command[0]} did not end within {timeout:g} s") from error
        if check and status:
            end = b"".join(captured[1])[-400:].decode(errors="replace").strip()
            text = f"{command[0]} ended with status {status}"
            raise CommandFailed(f"{text}: {end}" if end else text, status)
        return Result(status, b"".join(captured[0]), b"".join(captured[1]))

    async def _execute(
        self,
        command: Sequence[str],
        stdin: Stdin | None,
        sinks: Sequence[Sink],
        container: str | None,
    ) -> int:
        pod = self.require_pod()
        # Imported here because it is slow; ``run`` imports it while it waits for the node.
        from nodepool_k8s.kubernetes.exec import NodeApi, execute

        if self._api is None:
            self._api = NodeApi(self._connection)
        api = self._api
        source = None if stdin is None else ReadOnceSource(_source(stdin))

        async def execute_in_pod(command: Sequence[str], sinks: Sequence[Sink]) -> int:
            return await execute(
                api,
                self.namespace,
                pod,
                command,
                container=container,
                stdin=source,
                stdout=sinks[0],
                stderr=sinks[1],
            )

        async def execute_framed() -> int:
            framed = FramedCommand(sinks[0], sinks[1])
            try:
                return framed.ended(await execute_in_pod(framed.command(command), framed.sinks()))
            except OutputComplete as complete:
                return complete.status
            except CommandNotStarted:
                # Retry without the shell, unless the input has been read already.
                if source is not None and source.was_read:
                    raise
                return await execute_in_pod(command, sinks)

        return await self._while_held(execute_framed())

    async def _while_held(self, work: Coroutine[Any, Any, T]) -> T:
        """Await it for as long as we hold the lock. Raises NodeLost."""
        result: T = await race(work, self._raise_when_lost())
        return result

    async def _raise_when_lost(self) -> NoReturn:
        await self._session.ended()
        raise NodeLost(
            f"node {self.id} is lost: the ZooKeeper session ended, which released its lock"
        )

    # --- files ------------------------------------------------------------------------------

    async def upload(self, directory: str | Path, to: str | None = None) -> str:
        """Copy the contents of a local directory to ``to`` on the node; return that path.

        ``to`` is created if missing; its default is a new directory. Owners are not kept.
        Needs ``sh`` and ``tar`` in the image. Raises TransferFailed, and the errors of
        ``run``.
        """
        return await transfer.upload(self, Path(directory), to)

    async def download(self, path: str, to: str | Path = ".", *, cwd: str | None = None) -> None:
        """Copy a file or directory of the node into a local directory, under its own name.

        Existing files are overwritten. Needs ``sh`` and ``tar`` in the image. Raises
        TransferFailed, and the errors of ``run``.
        """
        await transfer.download(self, path, Path(to), cwd)

    # --- ending -----------------------------------------------------------------------------

    def keep(self, comment: str, seconds: int | None = None) -> None:
        """Hold the node after the block: for some seconds, or until it is deleted."""
        self.kept = KeepRequest(comment, seconds)

    async def close(self) -> None:
        """Close the connections to the API server."""
        api, self._api = self._api, None
        if api is not None:
            await api.close()


def _full_command(command: Sequence[str], env: Mapping[str, str], cwd: str | None) -> list[str]:
    """The command with ``env`` and ``cwd``, which pods/exec lacks. Raises ValueError."""
    if isinstance(command, str | bytes) or not command:
        raise ValueError(f"{command!r} is not a command; expected a list of arguments")
    full = list(command)
    if env:
        for name in env:
            if not name or "=" in name or name.startswith("-"):
                raise ValueError(f"{name!r} is not a name of an environment variable")
        if "=" in full[0]:
            raise ValueError(f"{full[0]!r} cannot be run with env: it looks like a variable")
        full = ["env", *(f"{name}={value}" for name, value in env.items()), *full]
    if cwd is not None:
        full = ["sh", "-c", 'cd -- "$1" || exit 125; shift; exec "$@"', "sh", cwd, *full]
    if any("\0" in part for part in full):
        raise ValueError("a command cannot contain a zero byte")
    return full


def _sink(output: Output) -> Sink:
    async def sink(data: bytes) -> None:
        done = output(data)
        if inspect.isawaitable(done):
            await done

    return sink


def _source(stdin: Stdin) -> AsyncIterable[bytes]:
    if isinstance(stdin, str | bytes):
        return _once(stdin.encode() if isinstance(stdin, str) else stdin)
    return stdin


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
