"""The output of a command, whole: its end is said in the streams themselves.

An API server forwards a command's output through queues, and drops what is in them when
the command has ended and its connection is closed: under load, of a hundred megabytes the
last one was missing now and then, with exit status 0. So the command does not end before
we have it all: a shell runs it, writes a mark and its exit status behind each stream, and
stays until we hang up. Then it goes by itself, within a second.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence

from nodepool_k8s.errors import CommandError

Sink = Callable[[bytes], Awaitable[None]]

# What the shell itself would say of a signal is not the command's to say.
_SCRIPT = (
    'm=$1; shift; exec 3>&2 2>/dev/null; (exec 2>&3 3>&-; exec "$@"); s=$?; '
    'printf "%s%s\\n" "$m" $s; printf "%s%s\\n" "$m" $s >&3; '
    "while sleep 1; do printf . || exit $s; done; exit $s"
)

KILLED = 128
"""Above, a shell's status says that a signal ended it, which may be the shell itself."""


class OutputComplete(Exception):
    """Both streams have come to their ends; ``status`` is the command's."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class FramedCommand:
    """One command, and how much of its output has come."""

    def __init__(self, stdout: Sink, stderr: Sink) -> None:
        self._mark = f"<{uuid.uuid4().hex}>"
        self._streams = [_Stream(self._mark.encode(), sink) for sink in (stdout, stderr)]

    def command(self, command: Sequence[str]) -> list[str]:
        """What to run in its place."""
        return ["sh", "-c", _SCRIPT, "sh", self._mark, *command]

    def sinks(self) -> list[Sink]:
        """What takes the output; raises Whole when there is no more to come."""
        return [self._sink(stream) for stream in self._streams]

    def _sink(self, stream: _Stream) -> Sink:
        async def sink(data: bytes) -> None:
            await stream.take(data)
            statuses = [stream.status for stream in self._streams]
            if None not in statuses:
                raise OutputComplete(statuses[0] or 0)

        return sink

    def ended(self, status: int) -> int:
        """What the API server says of the end, where the marks did not come first.

        Raises CommandError where output is missing.
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
        self._kept = b""
        """The beginning of a mark, perhaps."""
        self._end: bytes | None = None
        """What came behind the mark."""
        self.status: int | None = None

    async def take(self, data: bytes) -> None:
        if self._end is None:
            data = self._kept + data
            found = data.find(self._mark)
            if found < 0:
                size = next(
                    (n for n in range(len(self._mark) - 1, 0, -1) if data.endswith(self._mark[:n])),
                    0,
                )
                self._kept = data[len(data) - size :]
                await self._hand_on(data[: len(data) - size])
                return
            await self._hand_on(data[:found])
            self._end, data = b"", data[found + len(self._mark) :]
        if self.status is None:
            self._end += data
            digits, newline, _ = self._end.partition(b"\n")
            self.status = int(digits) if newline else None

    async def _hand_on(self, data: bytes) -> None:
        if data:
            await self._sink(data)


class ReadOnceSource:
    """A source that knows whether anything was taken from it."""

    def __init__(self, source: AsyncIterable[bytes]) -> None:
        self._source = source
        self.touched = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces."""
        self.touched = True
        async for piece in self._source:
            yield piece
