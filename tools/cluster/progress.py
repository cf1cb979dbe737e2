"""Progress of steps that take longer than a moment."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console

PLAIN_EVERY_S = 15.0


class Step(Protocol):
    """One step under way."""

    def update(self, detail: str) -> None:
        """Show how far the step got."""


class Progress:
    """Steps with their elapsed time: a spinner on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        # Standard error, so that the output of `env` can be evaluated.
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[Step]:
        """Show `text` and the seconds that the block has taken so far, and then in total."""
        step = _Ticking(text, self._console)
        try:
            with step:
                yield step
        except BaseException:
            self.say(f"{text}: not done after {step.elapsed:.1f} s")
            raise
        self.say(f"{text}: {step.elapsed:.1f} s")


class Quiet(Progress):
    """Prints nothing; for tests and for use as a library."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))


class _Ticking:
    """A thread that repaints the spinner's text, or prints a line now and then."""

    def __init__(self, text: str, console: Console) -> None:
        self._text = text
        self._detail = ""
        self._console = console
        self._began = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def update(self, detail: str) -> None:
        self._detail = f" ({detail})" if detail else ""

    def __enter__(self) -> "_Ticking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        if self._console.is_terminal and not self._console.quiet:
            self._spin()
        else:
            self._print_now_and_then()

    def _line(self) -> str:
        return f"{self._text}{self._detail} ... {self.elapsed:.0f} s"

    def _spin(self) -> None:
        with self._console.status(self._text) as status:
            while not self._done.wait(0.2):
                status.update(self._line())

    def _print_now_and_then(self) -> None:
        if self._done.wait(1.0):
            return
        self._console.print(self._line(), markup=False)
        while not self._done.wait(PLAIN_EVERY_S):
            self._console.print(self._line(), markup=False)
