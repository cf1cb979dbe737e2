"""Shows the progress of a slow command: in place on a terminal, otherwise one line per step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape


@contextmanager
def show_progress(subject: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text on standard error; a repeated text is shown once."""
    console = Console(stderr=True)
    last = ""
    with console.status(escape(subject)) as status:

        def show(text: str) -> None:
            nonlocal last
            if text == last:
                return
            last = text
            status.update(escape(f"{subject}: {text}"))
            if not console.is_terminal:
                console.print(f"{subject}: {text}", soft_wrap=True, markup=False)

        yield show
