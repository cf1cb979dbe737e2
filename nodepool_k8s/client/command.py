"""The input, output and result of a command on a node."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Stdin = bytes | str | AsyncIterable[bytes]
Output = Callable[[bytes], Awaitable[None] | None]
"""Called with each chunk of a command's output; the command waits until it returns."""


@dataclass(frozen=True, slots=True)
class Result:
    """A command's exit status (128 + n if signal n ended it), and its output."""

    status: int
    stdout: bytes = b""
    stderr: bytes = b""


class CommandRunner(Protocol):
    """Something that runs commands, for instance a node."""

    @property
    def id(self) -> str:
        """The node's id."""

    async def run(
        self, command: Sequence[str], *, stdin: Stdin | None = None, stdout: Output | None = None
    ) -> Result:
        """Run a command until it ends."""
