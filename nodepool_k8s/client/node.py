"""A node that is ours: run commands on it, send it files, have it kept."""

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
    """What a node is kept for after its block; ``seconds`` None: until somebody deletes it."""

    comment: str
    seconds: int | None


class RemoteNode:
    """A node in use by us. All of its methods raise NodeLost when it is not any more."""

    def __init__(self, node: model.Node, session: ZooKeeperSession) -> None:
        self._node = node
        self._session = session
        self._api: NodeApi | None = None
        self.kept: KeepRequest | None = None

    def __repr__(self) -> str:
        return f"<Node {self.id} {self.label} in {self.namespace}>"

    @property
    def id(self) -> str:
        """Its id, as ``nodepool-k8s list`` shows it."""
        return self._node.id

    @property
    def label(self) -> str:
        """The label that it was asked for by."""
        return self._node.type[0] if self._node.type else ""

    @property
    def provider(self) -> str:
        """Whose node it is."""
        return self._node.provider or ""

    @property
    def namespace(self) -> str:
        """Its namespace in the cluster."""
        return str(self._connection.get("namespace") or "")

    @property
    def pod(self) -> str | None:
        """Its pod's name; None for a namespace label's node."""
        return self._connection.get("pod")

    @property
    def connection(self) -> Mapping[str, Any]:
        """What its record tells of its API server, the token included, in Nodepool's form."""
        return dict(self._connection)

    @property
    def _connection(self) -> Mapping[str, Any]:
        found = self._node.extra.get("connection_port")
        return found if isinstance(found, dict) else {}

    def require_pod(self) -> str:
        """Its pod's name. Raises NoPod."""
        if self.pod:
            return self.pod
        raise NoPod(
            f"label {self.label} gives a namespace without a pod: there is nothing to run a "
            "command in; ask for a label of type pod"
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
        """Run a command in the pod to its end.

        What it writes comes back whole, or piece by piece to ``stdout`` and ``stderr``.
        ``env`` needs ``env`` in the image, ``cwd`` needs ``sh``. ``timeout`` in seconds:
        the command is left to itself then. ``check`` makes a status other than 0 an error.

        Raises CommandTimedOut, CommandFailed, CommandNotStarted, CommandError, NoPod,
        NodeLost, KubernetesError, and what ``stdin`` or an output raises.
        """
        whole = _command(command, env or {}, cwd)
        kept: tuple[list[bytes], list[bytes]] = ([], [])
        sinks = [
            _sink(output or pieces.append)
            for output, pieces in zip((stdout, stderr), kept, strict=True)
        ]
        try:
            async with asyncio.timeout(timeout) as limit:
                status = await self._execute(whole, stdin, sinks, container)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise CommandTimedOut(f"{command[0]} did not end within {timeout:g} s") from error
        if check and status:
            end = b"".join(kept[1])[-400:].decode(errors="replace").strip()
            text = f"{command[0]} ended with status {status}"
            raise CommandFailed(f"{text}: {end}" if end else text, status)
        return Result(status, b"".join(kept[0]), b"".join(kept[1]))

    async def _execute(
        self,
        command: Sequence[str],
        stdin: Stdin | None,
        sinks: Sequence[Sink],
        container: str | None,
    ) -> int:
        pod = self.require_pod()
        # It is much to load; there is time for it while a node is waited for, or there is not.
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

        async def guarded() -> int:
            guard = FramedCommand(sinks[0], sinks[1])
            try:
                return guard.ended(await execute_in_pod(guard.command(command), guard.sinks()))
            except OutputComplete as whole:
                return whole.status
            except CommandNotStarted:
                # Without a shell it goes as well; but what was read cannot be read again.
                if source is not None and source.touched:
                    raise
                return await execute_in_pod(command, sinks)

        return await self._while_ours(guarded())

    async def _while_ours(self, work: Coroutine[Any, Any, T]) -> T:
        """Await it, but no longer than the lock is ours. Raises NodeLost."""
        result: T = await race(work, self._lost())
        return result

    async def _lost(self) -> NoReturn:
        await self._session.ended()
        raise NodeLost(
            f"node {self.id} is not ours any more: the ZooKeeper session is over, and its lock "
            "with it"
        )

    # --- files ------------------------------------------------------------------------------

    async def upload(self, directory: str | Path, to: str | None = None) -> str:
        """Put what is in a local directory into one of the node; the path of that.

        It is made where it is missing; without ``to`` it is a new one. Owners are not kept.
        Needs ``sh`` and ``tar`` in the image. Raises TransferFailed, and what ``run`` does.
        """
        return await transfer.upload(self, Path(directory), to)

    async def download(self, path: str, to: str | Path = ".", *, cwd: str | None = None) -> None:
        """Fetch a file or a directory of the node into a local directory, by its last name.

        What is there of that name is written over. Needs ``sh`` and ``tar`` in the image.
        Raises TransferFailed, and what ``run`` does.
        """
        await transfer.download(self, path, Path(to), cwd)

    # --- afterwards -------------------------------------------------------------------------

    def keep(self, comment: str, seconds: int | None = None) -> None:
        """Have it kept after the block, not removed: for so long, or until it is deleted."""
        self.kept = KeepRequest(comment, seconds)

    async def close(self) -> None:
        """Close the connections to its API server."""
        api, self._api = self._api, None
        if api is not None:
            await api.close()


def _command(command: Sequence[str], env: Mapping[str, str], cwd: str | None) -> list[str]:
    """The command with what the API server has no field for. Raises ValueError."""
    if isinstance(command, str | bytes) or not command:
        raise ValueError(f"{command!r} is no command: a list of its words is wanted")
    whole = list(command)
    if env:
        for name in env:
            if not name or "=" in name or name.startswith("-"):
                raise ValueError(f"{name!r} is no name of an environment variable")
        if "=" in whole[0]:
            raise ValueError(f"{whole[0]!r} cannot be run with env: it reads as a variable")
        whole = ["env", *(f"{name}={value}" for name, value in env.items()), *whole]
    if cwd is not None:
        whole = ["sh", "-c", 'cd -- "$1" || exit 125; shift; exec "$@"', "sh", cwd, *whole]
    if any("\0" in part for part in whole):
        raise ValueError("a command cannot hold a zero byte")
    return whole


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
