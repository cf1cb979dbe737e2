"""``nodepool-k8s launcher``: the daemon, in the foreground."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal

import click

from nodepool_k8s import config, logs
from nodepool_k8s.cli import common
from nodepool_k8s.config.settings import Settings
from nodepool_k8s.launcher.daemon import DRAIN_SECONDS, Launcher


@click.command("launcher")
@common.config_options
@click.option("--debug", "-d", is_flag=True, help="Log what the launcher decides, and why.")
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=DRAIN_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long a stopping launcher gives back what is in flight.",
)
def command(path: str, secure_path: str | None, debug: bool, drain_timeout: float) -> None:
    """Serve node requests until stopped; logs go to standard error.

    SIGTERM and SIGINT stop it: it takes no more requests and gives back those in flight.
    A second signal ends it at once; the next start cleans up.
    """
    logs.configure(logging.DEBUG if debug else logging.INFO)
    settings = config.load(path, secure_path)
    # What was imported stays for ever: nothing is gained by looking through it again.
    gc.collect()
    gc.freeze()
    asyncio.run(_serve(settings, drain_timeout))


async def _serve(settings: Settings, drain_timeout: float) -> None:
    launcher = Launcher(settings, drain_timeout=drain_timeout)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, launcher, number)
    await launcher.run()


def _stop(launcher: Launcher, number: int) -> None:
    launcher.stop()
    # The second one finds the default again, which ends the process.
    asyncio.get_running_loop().remove_signal_handler(number)
