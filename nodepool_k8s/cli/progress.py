"""What a command that takes its time is doing: in place on a terminal, else a line a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape


@contextmanager
def shown(subject: str) -> Iterator[Callable[[str], None]]:
    """Show, on standard error, what the block says; each text once."""
    console = Console(stderr=True)
    last = ""
    with console.status(escape(subject)) as status:

        def say(text: str) -> None:
            nonlocal last
            if text == last:
                return
            last = text
            status.update(escape(f"{subject}: {text}"))
            if not console.is_terminal:
                console.print(f"{subject}: {text}", soft_wrap=True, markup=False)

        yield say
