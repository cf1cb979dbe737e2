"""``nodepool-k8s launcher``: the daemon, in the foreground, and its signal handlers."""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import gc
import importlib.util
import logging
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from nodepool_k8s import __version__, logs
from nodepool_k8s.cli import common, logconfig
from nodepool_k8s.cli.pidfile import pid_file
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.errors import NodepoolK8sError, describe
from nodepool_k8s.kubernetes.driver import KubernetesDriverFactory
from nodepool_k8s.launcher.daemon import DRAIN_SECONDS, Launcher
from nodepool_k8s.launcher.dump import dump
from nodepool_k8s.launcher.reload import ConfigFiles
from nodepool_k8s.launcher.systemd import SystemdNotifier

log = logging.getLogger(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""The signals that stop a launcher; SIGUSR1 stops Nodepool's, too."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the launcher that are not in its configuration."""

    drain_timeout: float
    webapp: bool
    pid_file: Path | None


def _known_modules(
    _context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    for name in names:
        if not _exists(name):
            raise click.BadParameter(
                f"there is no module {name}; use the names in log lines, "
                "for instance nodepool_k8s.launcher.pool_queue"
            )
    return names


def _exists(name: str) -> bool:
    try:
        # A library's loggers need not be modules; their first part is one.
        ours = name.partition(".")[0] == logs.PACKAGE
        return importlib.util.find_spec(name if ours else name.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


@click.command("launcher")
@common.config_options
@click.option(
    "-l",
    "--log-config",
    "log_config",
    metavar="FILE",
    help="A log configuration as for Nodepool: INI, YAML or JSON. It overrides --debug.",
)
@click.option("--debug", "-d", is_flag=True, help="Log the launcher's decisions and their reasons.")
@click.option(
    "--debug-module",
    "debug_modules",
    metavar="MODULE",
    multiple=True,
    callback=_known_modules,
    help="Log this module at debug level, for instance nodepool_k8s.launcher. Repeatable.",
)
@click.option(
    "--log-format",
    type=click.Choice(list(logs.FORMATTERS)),
    help="Lines of text (the default), or one JSON object per line.",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=DRAIN_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long a stopping launcher may finish launches, or give back their requests.",
)
@click.option(
    "-p",
    "--pid-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the process id to FILE.",
)
@click.option(
    "-f",
    "--foreground",
    is_flag=True,
    help="Accepted; the launcher always stays in the foreground.",
)
@click.option("--no-webapp", is_flag=True, help="Serve no web page.")
@click.option("--repl", is_flag=True, help="Accepted; has no effect.")
@click.version_option(__version__, prog_name="nodepool-k8s")
def command(
    path: str,
    secure_path: str | None,
    log_config: str | None,
    debug: bool,
    debug_modules: tuple[str, ...],
    log_format: str | None,
    drain_timeout: float,
    pid_file: Path | None,
    foreground: bool,
    no_webapp: bool,
    repl: bool,
) -> None:
    """Serve node requests until stopped, in the foreground; logs go to standard error.

    SIGTERM, SIGINT and SIGUSR1 stop it: it accepts no more requests, and finishes or gives
    back those in flight. A second signal ends it immediately; the next start cleans up.
    SIGHUP reloads the configuration, SIGUSR2 logs what the launcher waits for.
    """
    del foreground
    # Prints the stacks of all threads when systemd's watchdog aborts the process.
    faulthandler.enable()
    _configure_logging(log_config, debug, debug_modules, log_format)
    options = Options(drain_timeout, not no_webapp, pid_file)
    if repl:
        log.warning("--repl has no effect; SIGUSR2 logs what the launcher does")
    try:
        _run(ConfigFiles(path, secure_path), options)
    except NodepoolK8sError as error:
        if log_config is not None:
            # With a log configuration, admins may not look at standard error.
            log.critical("%s", describe(error))
        raise


def _configure_logging(
    log_config: str | None, debug: bool, debug_modules: tuple[str, ...], log_format: str | None
) -> None:
    if log_config is None:
        logs.configure(logging.DEBUG if debug else logging.INFO, style=log_format or "text")
    elif log_format is not None:
        raise click.UsageError("--log-format has no effect with -l: the file defines the formats")
    else:
        logs.install_record_factory()
        logconfig.apply(log_config)
    logs.enable_debug(debug_modules)


def _run(files: ConfigFiles, options: Options) -> None:
    settings = files.load()
    with ExitStack() as stack:
        if options.pid_file is not None:
            stack.enter_context(pid_file(options.pid_file))
        # Imported modules stay: exclude them from further garbage collections.
        gc.collect()
        gc.freeze()
        asyncio.run(_serve(settings, files, options))


async def _serve(settings: Settings, files: ConfigFiles, options: Options) -> None:
    notifier = SystemdNotifier()
    launcher = Launcher(
        settings,
        KubernetesDriverFactory(),
        files=files,
        drain_timeout=options.drain_timeout,
        webapp=options.webapp,
        notifier=notifier,
    )
    _handle_signals(launcher, options)
    try:
        await launcher.run()
    finally:
        notifier.close()


# --- signals ---------------------------------------------------------------------------------


def _handle_signals(launcher: Launcher, options: Options) -> None:
    def stop(number: int) -> None:
        log.info("Received %s, stopping", signal.Signals(number).name)
        launcher.stop()
        for each in STOPPING:
            loop.remove_signal_handler(each)
            signal.signal(each, functools.partial(_exit_at_once, options.pid_file))

    loop = asyncio.get_running_loop()
    for number in STOPPING:
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, launcher.reload)
    loop.add_signal_handler(signal.SIGUSR2, _log_dump, launcher)


def _exit_at_once(pid_path: Path | None, number: int, _frame: FrameType | None) -> NoReturn:
    """Exit without cleaning up, because the clean-up may be what hangs."""
    if pid_path is not None:
        pid_path.unlink(missing_ok=True)
    os._exit(128 + number)


def _log_dump(launcher: Launcher) -> None:
    log.info("%s", dump(launcher.snapshots.snapshot()))
