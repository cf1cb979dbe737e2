"""Shared by the commands: options and arguments, loading the configuration, and running."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nodepool_k8s import logs
from nodepool_k8s.zookeeper_settings import DEFAULT_CONFIG_FILE

if TYPE_CHECKING:
    from nodepool_k8s.config.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

INTERRUPTED = 130
"""The exit status of a program that was interrupted: 128 + SIGINT."""


# --- options and arguments -----------------------------------------------------------------


def config_options(command: F) -> F:
    """``-c`` and ``-s``, as Nodepool's programs have them."""
    command = click.option(
        "-s",
        "--secure",
        "secure_path",
        metavar="FILE",
        type=click.Path(),
        help="The secure file, if any.",
    )(command)
    return click.option(
        "-c",
        "--config",
        "path",
        metavar="FILE",
        type=click.Path(),
        default=DEFAULT_CONFIG_FILE,
        show_default=True,
        help="The configuration file.",
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # Generic in newer versions only.
    """A parameter that ``parse`` converts; it returns None if the text is not ``expected``."""

    def __init__(self, name: str, expected: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._expected = expected
        self._parse = parse

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The parsed value, or a usage error."""
        parsed = self._parse(value) if isinstance(value, str) else value
        if parsed is None:
            self.fail(f"{value!r} is not {self._expected}", param, ctx)
        return parsed


def _node_id(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9]{1,20}", text, re.ASCII) else None


def _name(text: str) -> str | None:
    return text if text.strip() and text.isprintable() else None


def _duration(text: str) -> int | None:
    from nodepool_k8s.config.quantities import seconds

    found = seconds(int(text) if re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) else text)
    return int(found) if found is not None and found >= 1 else None


DURATION = _Parsed("duration", "a duration: a number of seconds, or 90m, 12h, 7d", _duration)
NAME = _Parsed("name", "a name", _name)

node_argument = click.argument(
    "node_id",
    metavar="ID",
    type=_Parsed("id", "a node id (0000000042) as shown by nodepool-k8s list", _node_id),
)
provider_argument = click.argument("provider", metavar="PROVIDER", type=NAME)


# --- the configuration ---------------------------------------------------------------------


def load_settings(path: str, secure_path: str | None, *, clusters: bool = False) -> Settings:
    """Load the configuration; its contexts must exist only if ``clusters`` is true.

    Raises ConfigError.
    """
    # Imported here because it is slow, and ``run`` may not need it.
    from nodepool_k8s import config
    from nodepool_k8s.client.discovery import EveryContext

    return config.load(path, secure_path, contexts=None if clusters else EveryContext)


def identity() -> str:
    """The name of the requestor: the user on this machine."""
    from nodepool_k8s.client import identity as client_identity

    return client_identity()


# --- running -------------------------------------------------------------------------------


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C and SIGTERM cancel it, so it releases what it holds."""
    configure_logging()

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        return await main

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        click.echo(f"{click.get_current_context().find_root().info_name}: interrupted", err=True)
        raise SystemExit(INTERRUPTED) from None


def configure_logging() -> None:
    """Log warnings as plain lines, unless the program's options say otherwise."""
    options = click.get_current_context().find_root().params
    if options.get("log_config"):
        from nodepool_k8s.cli import logconfig

        logconfig.apply(options["log_config"])
    elif options.get("debug"):
        logs.configure(logging.DEBUG)
    else:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        # Our own errors already report connection problems.
        logging.getLogger("kazoo").setLevel(logging.CRITICAL)
