"""Log records with context and without secrets, and the formatters that write them.

A task binds its context once (event, request, node, label). The context follows into every
function that the task calls and every task that it starts, so loggers are never passed
around.

The record adds the context and redacts secrets, not a handler, so both hold with any
handlers and formats that an admin configures. The prefix is part of the message, as in
Nodepool: a format needs only ``%(message)s``.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from nodepool_k8s.redaction import redact_text

NAMES = {"event_id": "e", "request": "node_request", "node": "node", "label": "label"}
"""Our names of the context, and Nodepool's names in the prefix, which sites search for."""

PACKAGE = __package__
"""The parent of all loggers of this package."""

_context: ContextVar[dict[str, str]] = ContextVar("log_context", default={})  # noqa: B039


def bind_log_context(**context: str | None) -> None:
    """Add to this task's context: ``event_id``, ``request``, ``node``, ``label``."""
    known = {name: value for name, value in context.items() if value}
    _context.set({**_context.get(), **known})


class LogRecord(logging.LogRecord):
    """A record with the task's context, and with secrets redacted.

    In addition to the standard attributes, a format may use ``%(event_id)s``,
    ``%(request)s``, ``%(node)s`` and ``%(label)s``, which may be empty, and
    ``%(subject)s``, the prefix built from them.
    """

    def __init__(
        self,
        name: str | None,
        level: int,
        pathname: str,
        lineno: int,
        msg: object,
        args: Any,
        *rest: Any,
        **options: Any,
    ) -> None:
        if args and name and name.partition(".")[0] == "kazoo":
            # kazoo logs each packet, and node records contain credentials.
            args = tuple(_without_data(value) for value in args)
        super().__init__(name or "", level, pathname, lineno, msg, args, *rest, **options)
        context = _context.get()
        for key in NAMES:
            setattr(self, key, context.get(key, ""))
        self.subject = "".join(
            f"[{NAMES[key]}: {context[key]}] " for key in NAMES if key in context
        )

    def text(self) -> str:
        """The message without the prefix."""
        # A handler that passes records on, such as QueueHandler, makes the message the text.
        return redact_text(super().getMessage().removeprefix(self.subject))

    def getMessage(self) -> str:  # noqa: N802
        """The message after its prefix."""
        return self.subject + self.text()


# --- secrets ---------------------------------------------------------------------------------


class _OmittedBytes:
    """Stands for bytes in a log line; shows only their number."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __repr__(self) -> str:
        return f"<{self._size} bytes>"


def _without_data(value: Any) -> Any:
    """An argument of kazoo's log lines, for instance a packet, without the data of znodes."""
    if isinstance(value, bytes | bytearray):
        return _OmittedBytes(len(value))
    if isinstance(value, list | tuple):
        items = [_without_data(item) for item in value]
        # A packet is a named tuple.
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


# --- formatters ------------------------------------------------------------------------------


class MultiLineFormatter(logging.Formatter):
    """Begins each line of a message or traceback like the first, with its time.

    Equivalent to Nodepool's class of this name, which its log configuration files use.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format all lines of the record."""
        first, *others = redact_text(super().format(record)).split("\n")
        message = record.message
        lines = [first]
        for line in others:
            record.message = f"{getattr(record, 'subject', '')}  {line}"
            lines.append(self.formatMessage(record))
        record.message = message
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """Writes one JSON object per line.

    It always has ``time`` (ISO 8601, UTC), ``level``, ``logger`` and ``message``; and
    ``event_id``, ``request``, ``node``, ``label``, ``exception`` and ``stack`` if known.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format the record; a configured format string has no effect."""
        time = datetime.fromtimestamp(record.created, UTC)
        fields = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.text() if isinstance(record, LogRecord) else record.getMessage(),
            **{name: getattr(record, name, "") for name in NAMES},
            "exception": redact_text(self._exception(record)),
            "stack": record.stack_info or "",
        }
        always = ("time", "level", "logger", "message")
        shown = {key: value for key, value in fields.items() if value or key in always}
        return json.dumps(shown, default=str)

    def _exception(self, record: logging.LogRecord) -> str:
        if record.exc_info and record.exc_info[0] is not None:
            return self.formatException(record.exc_info)
        return record.exc_text or ""


FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

FORMATTERS: dict[str, logging.Formatter] = {
    "text": MultiLineFormatter(FORMAT),
    "json": JsonFormatter(),
}


# --- configuring -----------------------------------------------------------------------------


def install_record_factory() -> None:
    """Make every new record a ``LogRecord``. Call it before configuring any handler."""
    logging.setLogRecordFactory(LogRecord)


def configure(level: int, stream: TextIO | None = None, style: str = "text") -> None:
    """Log to ``stream`` (default: standard error) in a style of ``FORMATTERS``."""
    install_record_factory()
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FORMATTERS[style])
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # kazoo logs each packet at debug and each reconnect at info; our own lines suffice.
    logging.getLogger("kazoo").setLevel(max(level, logging.WARNING))


def enable_debug(modules: Iterable[str]) -> None:
    """Set the loggers of these modules to debug level."""
    for name in modules:
        logging.getLogger(name).setLevel(logging.DEBUG)
