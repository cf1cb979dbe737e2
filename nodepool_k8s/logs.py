"""What a log line is about, how it is written, and that no secret is in it.

A task says once what it is about; the context follows it into every function it calls and
every task it starts, the adapters included, so that nobody passes loggers around.

All of it hangs on the record, not on a handler, so that it holds whatever handlers and
formats an admin's own configuration has. The prefix is a part of the message, as Nodepool's
is: a format needs nothing but ``%(message)s``.
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
"""Our names, and Nodepool's in a line's prefix, which sites search their logs for."""

PACKAGE = __package__
"""The logger that all of ours are below of."""

_about: ContextVar[dict[str, str]] = ContextVar("about", default={})  # noqa: B039


def bind_log_context(**subject: str | None) -> None:
    """Say what this task is about: ``event_id``, ``request``, ``node``, ``label``."""
    known = {name: value for name, value in subject.items() if value}
    _about.set({**_about.get(), **known})


class LogRecord(logging.LogRecord):
    """A record that knows what it is about, and tells no secret.

    Besides the standard's, a format may use ``%(event_id)s``, ``%(request)s``, ``%(node)s``
    and ``%(label)s``, which may be empty, and ``%(subject)s``, the prefix made of them.
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
            # It logs each packet: what the records of nodes hold lets one into them.
            args = tuple(_without_data(value) for value in args)
        super().__init__(name or "", level, pathname, lineno, msg, args, *rest, **options)
        subject = _about.get()
        for key in NAMES:
            setattr(self, key, subject.get(key, ""))
        self.subject = "".join(
            f"[{NAMES[key]}: {subject[key]}] " for key in NAMES if key in subject
        )

    def text(self) -> str:
        """The message without the prefix."""
        # Whoever passes records on, a queue for instance, makes the message their text.
        return redact_text(super().getMessage().removeprefix(self.subject))

    def getMessage(self) -> str:  # noqa: N802
        """The message, after what it is about."""
        return self.subject + self.text()


# --- secrets ---------------------------------------------------------------------------------


class _Withheld:
    """Stands for bytes that are not to be shown."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __repr__(self) -> str:
        return f"<{self._size} bytes>"


def _without_data(value: Any) -> Any:
    """An argument of kazoo's log lines, packets among them, without znodes' data."""
    if isinstance(value, bytes | bytearray):
        return _Withheld(len(value))
    if isinstance(value, list | tuple):
        items = [_without_data(item) for item in value]
        # A packet is a named tuple.
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


# --- how it is written -----------------------------------------------------------------------


class MultiLineFormatter(logging.Formatter):
    """Each line of a message or a traceback begins like the first: none is without its time.

    The same as Nodepool's class of this name, which its log configuration files use.
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
    """A JSON object a line.

    ``time`` (ISO 8601, UTC), ``level``, ``logger`` and ``message`` always; ``event_id``,
    ``request``, ``node``, ``label``, ``exception`` and ``stack`` where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format the record; a format string that was given has no effect."""
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


def prepare() -> None:
    """Make every record from now on a ``LogRecord``: before any handler is configured."""
    logging.setLogRecordFactory(LogRecord)


def configure(level: int, stream: TextIO | None = None, style: str = "text") -> None:
    """Log to ``stream`` (standard error) in a style of ``FORMATTERS``."""
    prepare()
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FORMATTERS[style])
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # kazoo logs each packet at debug and each reconnect at info: ours say what matters.
    logging.getLogger("kazoo").setLevel(max(level, logging.WARNING))


def debug(modules: Iterable[str]) -> None:
    """Log all that these loggers, named as their modules, have to say."""
    for name in modules:
        logging.getLogger(name).setLevel(logging.DEBUG)
