"""What the commands share: their options and arguments, the configuration, and how they run."""

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


class _Checked(click.ParamType):  # type: ignore[type-arg]  # Generic in newer versions only.
    """A text that has to look like something; ``expected`` says like what."""

    def __init__(self, name: str, expected: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._expected = expected
        self._read = read

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as read; a usage error where it cannot be."""
        read = self._read(value) if isinstance(value, str) else value
        if read is None:
            self.fail(f"{value!r} is not {self._expected}", param, ctx)
        return read


def _node_id(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9]{1,20}", text, re.ASCII) else None


def _name(text: str) -> str | None:
    return text if text.strip() and text.isprintable() else None


def _duration(text: str) -> int | None:
    from nodepool_k8s.config.quantities import seconds

    found = seconds(int(text) if re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) else text)
    return int(found) if found is not None and found >= 1 else None


DURATION = _Checked("duration", "a duration: a number of seconds, or 90m, 12h, 7d", _duration)
NAME = _Checked("name", "a name", _name)

node_argument = click.argument(
    "node_id",
    metavar="ID",
    type=_Checked("id", "a node's id (0000000042), as nodepool-k8s list shows them", _node_id),
)
provider_argument = click.argument("provider", metavar="PROVIDER", type=NAME)


# --- the configuration ---------------------------------------------------------------------


def settings(path: str, secure_path: str | None, *, clusters: bool = False) -> Settings:
    """The configuration; the contexts that it names have to exist only for ``clusters``.

    Raises ConfigError.
    """
    # What only asks for nodes may never need it, and it is much to load.
    from nodepool_k8s import config
    from nodepool_k8s.client.discovery import EveryContext

    return config.load(path, secure_path, contexts=None if clusters else EveryContext)


def identity() -> str:
    """Who asks: the user, on this machine."""
    from nodepool_k8s.client import identity as found

    return found()


# --- running -------------------------------------------------------------------------------


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C and SIGTERM cancel it, and what it holds is let go."""
    log_to_people()

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


def log_to_people() -> None:
    """Warnings as plain lines; more where the program's own options ask for it."""
    options = click.get_current_context().find_root().params
    if options.get("log_config"):
        from nodepool_k8s.cli import logconfig

        logconfig.apply(options["log_config"])
    elif options.get("debug"):
        logs.configure(logging.DEBUG)
    else:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        # What it has to say of a connection, our own error says.
        logging.getLogger("kazoo").setLevel(logging.CRITICAL)
