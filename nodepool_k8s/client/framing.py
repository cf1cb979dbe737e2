"""Marks the end of a command's output in the streams themselves, so that none is lost.

An API server forwards a command's output through queues, and drops their contents when the
command has ended and its connection is closed: under load, the last of a hundred megabytes
was sometimes missing, with exit status 0. So the command must not end before all of its
output has arrived: a shell runs it, writes a mark and the exit status to the end of each
stream, and stays until the connection is closed. It then exits within a second.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence

from nodepool_k8s.errors import CommandError

Sink = Callable[[bytes], Awaitable[None]]

# 2>/dev/null hides the shell's own message about a signal that ended the command.
_SCRIPT = (
    'm=$1; shift; exec 3>&2 2>/dev/null; (exec 2>&3 3>&-; exec "$@"); s=$?; '
    'printf "%s%s\\n" "$m" $s; printf "%s%s\\n" "$m" $s >&3; '
    "while sleep 1; do printf . || exit $s; done; exit $s"
)

KILLED = 128
"""Statuses above mean that a signal ended the command, or the shell itself."""


class OutputComplete(Exception):
    """Both streams have ended; ``status`` is the command's exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class FramedCommand:
    """Wraps one command, and finds the end of its output."""

    def __init__(self, stdout: Sink, stderr: Sink) -> None:
        self._mark = f"<{uuid.uuid4().hex}>"
        self._streams = [_Stream(self._mark.encode(), sink) for sink in (stdout, stderr)]

    def command(self, command: Sequence[str]) -> list[str]:
        """The wrapped command, to run instead."""
        return ["sh", "-c", _SCRIPT, "sh", self._mark, *command]

    def sinks(self) -> list[Sink]:
        """Functions that take the chunks of stdout and stderr.

        They raise OutputComplete when both streams have ended.
        """
        return [self._sink(stream) for stream in self._streams]

    def _sink(self, stream: _Stream) -> Sink:
        async def sink(data: bytes) -> None:
            await stream.take(data)
            statuses = [stream.status for stream in self._streams]
            if None not in statuses:
                raise OutputComplete(statuses[0] or 0)

        return sink

    def ended(self, status: int) -> int:
        """The status that the API server reported before both marks arrived.

        Raises CommandError if output is missing.
        """
        if status < KILLED and any(stream.status is None for stream in self._streams):
            raise CommandError(
                f"the end of the output is missing, though the command ended with status {status}"
            )
        return status


class _Stream:
    """One stream up to its mark."""

    def __init__(self, mark: bytes, sink: Sink) -> None:
        self._mark = mark
        self._sink = sink
        self._pending = b""
        """The end of the output so far, if it may be the beginning of the mark."""
        self._trailer: bytes | None = None
        """What followed the mark: the exit status; None before the mark."""
        self.status: int | None = None

    async def take(self, data: bytes) -> None:
        if self._trailer is None:
            data = self._pending + data
            found = data.find(self._mark)
            if found < 0:
                size = next(
                    (n for n in range(len(self._mark) - 1, 0, -1) if data.endswith(self._mark[:n])),
                    0,
                )
                self._pending = data[len(data) - size :]
                await self._forward(data[: len(data) - size])
                return
            await self._forward(data[:found])
            self._trailer, data = b"", data[found + len(self._mark) :]
        if self.status is None:
            self._trailer += data
            digits, newline, _ = self._trailer.partition(b"\n")
            self.status = int(digits) if newline else None

    async def _forward(self, data: bytes) -> None:
        if data:
            await self._sink(data)


class ReadOnceSource:
    """A source that records whether reading it has begun."""

    def __init__(self, source: AsyncIterable[bytes]) -> None:
        self._source = source
        self.was_read = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks of the source."""
        self.was_read = True
        async for chunk in self._source:
            yield chunk
