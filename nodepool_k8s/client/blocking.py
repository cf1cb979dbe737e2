"""The client for programs without asyncio: the same, and each call waits for its end.

::

    with blocking.node("gpu") as node:
        print(node.run(["nvidia-smi"]).stdout.decode())
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from nodepool_k8s.client import session
from nodepool_k8s.client.command import Output, Result
from nodepool_k8s.client.node import RemoteNode as AsyncNode
from nodepool_k8s.client.requestor import PRIORITY
from nodepool_k8s.client.session import OnWaiting
from nodepool_k8s.zookeeper_settings import ZooKeeperSettings, ZooKeeperTLS

T = TypeVar("T")


class RemoteNode:
    """A node in use by us; see ``nodepool_k8s.client.RemoteNode``."""

    def __init__(self, node: AsyncNode, loop: _Loop) -> None:
        self._node = node
        self._loop = loop
        self.id = node.id
        self.label = node.label
        self.provider = node.provider
        self.namespace = node.namespace
        self.pod = node.pod

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bytes | str | Iterable[bytes] | None = None,
        stdout: Output | None = None,
        stderr: Output | None = None,
        timeout: float | None = None,
        check: bool = False,
        container: str | None = None,
    ) -> Result:
        """Run a command in the pod to its end. ``stdin`` may be a file opened for bytes."""
        source = stdin if stdin is None or isinstance(stdin, bytes | str) else _pieces(stdin)
        return self._loop.run(
            self._node.run(
                command,
                env=env,
                cwd=cwd,
                stdin=source,
                stdout=stdout,
                stderr=stderr,
                timeout=timeout,
                check=check,
                container=container,
            )
        )

    def upload(self, directory: str | Path, to: str | None = None) -> str:
        """Put what is in a local directory into one of the node; the path of that."""
        return self._loop.run(self._node.upload(directory, to))

    def download(self, path: str, to: str | Path = ".", *, cwd: str | None = None) -> None:
        """Fetch a file or a directory of the node into a local directory."""
        self._loop.run(self._node.download(path, to, cwd=cwd))

    def keep(self, comment: str, seconds: int | None = None) -> None:
        """Have it kept after the block, not removed."""
        self._node.keep(comment, seconds)


@contextmanager
def nodes(
    *labels: str,
    zookeeper: str | ZooKeeperSettings | None = None,
    tls: ZooKeeperTLS | None = None,
    config: str | None = None,
    provider: str | None = None,
    tenant: str | None = None,
    priority: str = PRIORITY,
    timeout: float | None = None,
    waiting: OnWaiting | None = None,
) -> Iterator[list[RemoteNode]]:
    """A node of each label, for the length of the block; see ``nodepool_k8s.client.nodes``."""
    with _running() as loop:
        connecting = session.connect(zookeeper, tls=tls, config=config)
        with loop.entered(connecting) as connected:
            asked = connected.nodes(
                *labels,
                provider=provider,
                tenant=tenant,
                priority=priority,
                timeout=timeout,
                waiting=waiting,
            )
            with loop.entered(asked) as found:
                yield [RemoteNode(entry, loop) for entry in found]


@contextmanager
def node(
    label: str,
    *,
    zookeeper: str | ZooKeeperSettings | None = None,
    tls: ZooKeeperTLS | None = None,
    config: str | None = None,
    provider: str | None = None,
    tenant: str | None = None,
    priority: str = PRIORITY,
    timeout: float | None = None,
    waiting: OnWaiting | None = None,
) -> Iterator[RemoteNode]:
    """A node of the label, for the length of the block."""
    with nodes(
        label,
        zookeeper=zookeeper,
        tls=tls,
        config=config,
        provider=provider,
        tenant=tenant,
        priority=priority,
        timeout=timeout,
        waiting=waiting,
    ) as found:
        yield found[0]


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for its end; what interrupts us, Ctrl-C for one, cancels it first."""
        task: asyncio.Future[T] | None = None

        async def begin() -> T:
            nonlocal task
            task = asyncio.ensure_future(work)
            return await task

        future = asyncio.run_coroutine_threadsafe(begin(), self._loop)
        try:
            return future.result()
        except BaseException:
            ended = threading.Event()
            self._loop.call_soon_threadsafe(lambda: _cancel(task, ended.set))
            ended.wait()
            raise

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Be in an asynchronous block for the length of this one."""
        value = self.run(manager.__aenter__())
        try:
            yield value
        except BaseException as error:
            if not self.run(_leave(manager, error)):
                raise
        else:
            self.run(_leave(manager, None))

    def close(self) -> None:
        """Stop it."""
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _cancel(task: asyncio.Future[Any] | None, then: Callable[[], None]) -> None:
    if task is None or task.done():
        then()
        return
    task.cancel()
    task.add_done_callback(lambda _: then())


async def _leave(
    manager: AbstractAsyncContextManager[Any], error: BaseException | None
) -> bool | None:
    kind = None if error is None else type(error)
    return await manager.__aexit__(kind, error, error.__traceback__ if error else None)


@contextmanager
def _running() -> Iterator[_Loop]:
    loop = _Loop()
    try:
        yield loop
    finally:
        loop.close()


async def _pieces(source: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Read it in a thread: it may wait."""
    iterator = iter(source)
    while (piece := await asyncio.to_thread(next, iterator, None)) is not None:
        yield piece
