"""The peer's logging configuration and command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def logging(level: str) -> dict[str, Any]:
    """A logging configuration: to standard error, Nodepool's own lines from that level on."""
    handler = {"class": "logging.StreamHandler", "formatter": "line"}
    line = {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": line},
        "handlers": {"stderr": handler},
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": {"nodepool": {"level": level}},
    }


def command(environment: Path, config: str, logging_file: str, pid_file: str) -> tuple[str, ...]:
    """The command line of its launcher, in the foreground and without its web application."""
    program = str(environment / "bin" / "nodepool-launcher")
    return (program, "-f", "--no-webapp", "-c", config, "-l", logging_file, "-p", pid_file)
