"""Copies directories to a node and files from it, with tar there and tarfile here."""

from __future__ import annotations

import asyncio
import os
import tarfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

from nodepool_k8s.aio import run_to_completion
from nodepool_k8s.client.command import CommandRunner, Output, Result, Stdin
from nodepool_k8s.client.errors import TransferFailed
from nodepool_k8s.errors import CommandNotStarted, describe
from nodepool_k8s.zookeeper_settings import DEFAULT_SESSION_SECONDS

T = TypeVar("T")

CHUNK = 64 * 1024

_ENTER = 'mkdir -p -- "$1" && cd -- "$1" || exit 1'
UPLOAD = f"{_ENTER}; exec tar -xf -"
UPLOAD_TO_NEW = 'd=$(mktemp -d) && cd "$d" || exit 1; pwd; exec tar -xf -'
DOWNLOAD = 'cd -- "$1" && cd -- "$2" || exit 1; exec tar -cf - "./$3"'

NOT_FOUND = 127
"""A shell's exit status if the command does not exist."""


async def _in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread, and wait for its end even if cancelled."""
    work = asyncio.to_thread(function, *args)
    return await run_to_completion(work, grace=DEFAULT_SESSION_SECONDS)


class _Thread:
    """CommandRunner tarfile at one end of a pipe in a thread, because it blocks."""

    def __init__(self, work: Callable[[], None], ours: int) -> None:
        self._work = work
        self._ours = ours
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    async def end(self) -> BaseException | None:
        """Close our end, wait for the thread, and return its error."""
        os.close(self._ours)
        await _in_thread(self._thread.join)
        return self._error


async def upload(node: CommandRunner, directory: Path, to: str | None) -> str:
    """Copy the contents of ``directory`` to ``to``, or to a new directory; its path."""
    if not await asyncio.to_thread(directory.is_dir):
        raise TransferFailed(f"{directory} is not a directory")
    ours, theirs = os.pipe()
    packing = _Thread(lambda: _pack(directory, theirs), ours)

    async def packed() -> AsyncIterator[bytes]:
        while chunk := await _in_thread(os.read, ours, CHUNK):
            yield chunk

    script = ["sh", "-c", UPLOAD, "sh", to] if to is not None else ["sh", "-c", UPLOAD_TO_NEW]
    what = f"cannot copy {directory} to node {node.id}"
    try:
        result = await _run(node, what, script, stdin=packed())
    finally:
        error = await packing.end()
    # A broken pipe means that tar ended early; its status says why.
    if error is not None and not isinstance(error, BrokenPipeError):
        raise TransferFailed(f"{what}: {describe(error)}") from error
    _check(result, what)
    if to is not None:
        return to
    lines = result.stdout.decode(errors="replace").splitlines()
    if not lines:
        raise TransferFailed(f"{what}: the image's sh did not print the new directory")
    return lines[0]


async def download(node: CommandRunner, path: str, to: Path, cwd: str | None) -> None:
    """Copy ``path`` of the node, relative to ``cwd``, into the local directory ``to``."""
    if not hasattr(tarfile, "data_filter"):
        raise TransferFailed("downloads need Python 3.11.4 or newer")
    parent, name = os.path.split(path.rstrip("/") or "/")
    theirs, ours = os.pipe()
    unpacking = _Thread(lambda: _unpack(to, theirs), ours)

    async def put(data: bytes) -> None:
        try:
            await _in_thread(_write, ours, data)
        except BrokenPipeError:
            return  # unpacking.end() returns the reason.

    script = ["sh", "-c", DOWNLOAD, "sh", cwd or ".", parent or ".", name]
    what = f"cannot copy {path} from node {node.id}"
    try:
        result = await _run(node, what, script, stdout=put)
    finally:
        error = await unpacking.end()
    _check(result, what)
    if error is not None:
        raise TransferFailed(f"{what}: {describe(error)}") from error


async def _run(
    node: CommandRunner,
    what: str,
    script: list[str],
    stdin: Stdin | None = None,
    stdout: Output | None = None,
) -> Result:
    try:
        return await node.run(script, stdin=stdin, stdout=stdout)
    except CommandNotStarted as error:
        raise TransferFailed(f"{what}: the image has no sh, which is required") from error


def _check(result: Result, what: str) -> None:
    if result.status == 0:
        return
    output = result.stderr.decode(errors="replace").strip()
    if result.status == NOT_FOUND:
        raise TransferFailed(f"{what}: the image has no tar, which is required ({output})")
    raise TransferFailed(f"{what}: {output[-400:] or f'tar ended with status {result.status}'}")


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _pack(directory: Path, descriptor: int) -> None:
    with (
        os.fdopen(descriptor, "wb") as pipe,
        tarfile.open(fileobj=pipe, mode="w|", bufsize=CHUNK) as tar,
    ):
        # Not the directory itself, so that the permissions of the target do not change.
        for entry in sorted(directory.iterdir()):
            tar.add(entry, arcname=entry.name, filter=_without_owner)


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _unpack(to: Path, descriptor: int) -> None:
    with (
        os.fdopen(descriptor, "rb") as pipe,
        tarfile.open(fileobj=pipe, mode="r|", bufsize=CHUNK) as tar,
    ):
        tar.extractall(to, filter="data")
        # The archive is followed by padding; read it, or the sender would block.
        while pipe.read(CHUNK):
            pass
