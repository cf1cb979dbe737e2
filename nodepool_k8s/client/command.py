"""What a command on a node is given, and how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Stdin = bytes | str | AsyncIterable[bytes]
Output = Callable[[bytes], Awaitable[None] | None]
"""Takes a piece of what a command writes; the command waits while it is at it."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: its exit status, 128 + n where signal n ended it, and its output."""

    status: int
    stdout: bytes = b""
    stderr: bytes = b""


class Runs(Protocol):
    """What commands are run on."""

    @property
    def id(self) -> str:
        """The node's id."""

    async def run(
        self, command: Sequence[str], *, stdin: Stdin | None = None, stdout: Output | None = None
    ) -> Result:
        """Run a command to its end."""
