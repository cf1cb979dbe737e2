"""What a log line is about: every line of a task carries its request, node, label and event.

A task says once what it is about; the context follows it into every function it calls and
every task it starts, the adapters included, so that nobody passes loggers around.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import TextIO

_NAMES = {"event_id": "e", "request": "node_request", "node": "node", "label": "label"}
"""Our names, and Nodepool's in a line's prefix, which sites search their logs for."""

_about: ContextVar[dict[str, str]] = ContextVar("about", default={})  # noqa: B039


def about(**subject: str | None) -> None:
    """Say what this task is about: ``event_id``, ``request``, ``node``, ``label``."""
    known = {name: value for name, value in subject.items() if value}
    _about.set({**_about.get(), **known})


class SubjectFilter(logging.Filter):
    """Puts what the current task is about on each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Set ``subject`` (a prefix) and each of the names on the record."""
        subject = _about.get()
        record.subject = "".join(
            f"[{_NAMES[name]}: {subject[name]}] " for name in _NAMES if name in subject
        )
        for name in _NAMES:
            setattr(record, name, subject.get(name, ""))
        return True


FORMAT = "%(asctime)s %(levelname)s %(name)s: %(subject)s%(message)s"


def configure(level: int, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (standard error), with each line's subject before its text."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(SubjectFilter())
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # kazoo logs each packet at debug and each reconnect at info: ours say what matters.
    logging.getLogger("kazoo").setLevel(max(level, logging.WARNING))
