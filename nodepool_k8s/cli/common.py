"""What the commands share: their options, the connection, and what of records is shown."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import click

from nodepool_k8s import config
from nodepool_k8s.config.settings import ZooKeeperSettings

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

INTERRUPTED = 130
"""The exit status of a program that was interrupted: 128 + SIGINT."""


def config_options(command: F) -> F:
    """``-c`` and ``-s``, as Nodepool's programs have them."""
    command = click.option(
        "-s", "--secure", "secure_path", metavar="FILE", help="The secure file, if any."
    )(command)
    return click.option(
        "-c",
        "--config",
        "path",
        metavar="FILE",
        default=config.DEFAULT_CONFIG_FILE,
        show_default=True,
        help="The configuration file.",
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


class _EveryContext(set[str]):
    """Who only talks to ZooKeeper needs no kube/config."""

    def __contains__(self, name: object) -> bool:
        return True


def zookeeper_settings(path: str, secure_path: str | None) -> ZooKeeperSettings:
    """Where ZooKeeper is, by the configuration. Raises ConfigError."""
    return config.load(path, secure_path, contexts=_EveryContext).zookeeper


def identity() -> str:
    """Who asks: the user, on this machine."""
    return f"{os.environ.get('USER', 'user')}@{os.uname().nodename}"


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C and SIGTERM cancel it, and what it holds is let go."""

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
        raise SystemExit(INTERRUPTED) from None


def age(since: float | None) -> str:
    """How long ago, as ``DD:HH:MM:SS``, Nodepool's form."""
    if not since:
        return ""
    seconds = max(0, int(time.time() - since))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days:02}:{hours:02}:{minutes:02}:{seconds:02}"


def redacted(record: Mapping[str, Any]) -> dict[str, Any]:
    """A node's record without what lets one in."""
    return {key: _redact(value) for key, value in record.items()}


_SECRETS: Iterable[str] = frozenset({"token", "password"})


def _redact(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: "redacted" if key in _SECRETS else _redact(item) for key, item in value.items()
        }
    return value
