"""What the demo prints: plain lines, with a little colour on a terminal."""

from __future__ import annotations

from rich.console import Console


class Screen:
    """Chapters, and lines that belong to them."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)

    def chapter(self, text: str) -> None:
        """Begin a chapter."""
        self.console.print(f"\n== {text}", style="bold", markup=False)

    def line(self, text: str) -> None:
        """A plain line."""
        self.console.print(text, markup=False)

    def good(self, text: str) -> None:
        """A line about what the demo shows: it happened."""
        self.console.print(text, style="green", markup=False)

    def bad(self, text: str) -> None:
        """A line about an error."""
        self.console.print(text, style="bold red", markup=False)

    def quoted(self, text: str) -> None:
        """The output of another program."""
        for line in text.rstrip().splitlines():
            self.console.print(f"   | {line}", markup=False)
