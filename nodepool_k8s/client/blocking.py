"""The client for programs without asyncio: each call blocks until it is done.

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
from nodepool_k8s.client.command import Output, Result, Stdin
from nodepool_k8s.client.node import RemoteNode
from nodepool_k8s.client.requestor import PRIORITY
from nodepool_k8s.client.session import OnWaiting
from nodepool_k8s.zookeeper_settings import ZooKeeperSettings, ZooKeeperTLS

T = TypeVar("T")


class BlockingNode:
    """A node that we use; see ``nodepool_k8s.client.RemoteNode``."""

    def __init__(self, node: RemoteNode, loop: _Loop) -> None:
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
        """Run a command in the pod until it ends. ``stdin`` may be a binary file."""
        if stdin is None or isinstance(stdin, bytes | str):
            source: Stdin | None = stdin
        else:
            source = _read_in_thread(stdin)
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
        """Copy the contents of a local directory to the node; the path of its directory."""
        return self._loop.run(self._node.upload(directory, to))

    def download(self, path: str, to: str | Path = ".", *, cwd: str | None = None) -> None:
        """Copy a file or directory of the node into a local directory."""
        self._loop.run(self._node.download(path, to, cwd=cwd))

    def keep(self, comment: str, seconds: int | None = None) -> None:
        """Hold the node after the block."""
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
) -> Iterator[list[BlockingNode]]:
    """A node of each label for the duration of the block; see ``nodepool_k8s.client.nodes``."""
    with _running() as loop:
        connecting = session.connect(zookeeper, tls=tls, config=config)
        with loop.entered(connecting) as connected:
            requesting = connected.nodes(
                *labels,
                provider=provider,
                tenant=tenant,
                priority=priority,
                timeout=timeout,
                waiting=waiting,
            )
            with loop.entered(requesting) as found:
                yield [BlockingNode(entry, loop) for entry in found]


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
) -> Iterator[BlockingNode]:
    """A node of the label for the duration of the block."""
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
    """An event loop in its own thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result; an interruption such as Ctrl-C cancels it."""
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
        """Enter an asynchronous context manager for the duration of the block."""
        value = self.run(manager.__aenter__())
        try:
            yield value
        except BaseException as error:
            if not self.run(_leave(manager, error)):
                raise
        else:
            self.run(_leave(manager, None))

    def close(self) -> None:
        """Stop the loop and its thread."""
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


async def _read_in_thread(source: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Read the source in a thread, because it may block."""
    iterator = iter(source)
    while (chunk := await asyncio.to_thread(next, iterator, None)) is not None:
        yield chunk
