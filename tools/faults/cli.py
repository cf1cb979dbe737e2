"""``tools/chaos``: the options, and what is printed."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click
from cluster import LocalCluster, Progress, sources
from rich.console import Console

from faults import report
from faults.campaign import Outcome, Run
from faults.nemesis import KINDS
from faults.plan import Plan

MINUTE_S = 60.0
LARGEST_SEED = 2**31


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--launchers", type=click.IntRange(1, 9), default=3, show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0.1), default=1.0, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=5), help="The same in seconds.")
@click.option("--seed", type=int, help="Seed of everything random; drawn if not given.")
@click.option(
    "--only", type=click.Choice(KINDS), multiple=True, help="Only this fault; may be repeated."
)
@click.option(
    "--upkeep",
    type=click.FloatRange(min=1),
    default=5.0,
    show_default=True,
    help="Seconds between two upkeep passes of a launcher; the default of an installed one is 60.",
)
@click.option("--fair-share", is_flag=True, help="Let tenants take turns in the pool.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep configurations and logs here; by default they are kept only after a violation.",
)
def main(
    launchers: int,
    minutes: float,
    seconds: float | None,
    seed: int | None,
    only: tuple[str, ...],
    upkeep: float,
    fair_share: bool,
    folder: Path | None,
) -> None:
    """Break everything around some launchers, and check that they keep their promises.

    Exit status 1: a promise was broken; the history of the objects involved is printed.
    """
    # Lost connections are intended.
    logging.getLogger("kazoo").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = random.SystemRandom().randrange(LARGEST_SEED) if seed is None else seed
    kept = folder or Path(tempfile.mkdtemp(prefix="nodepool-k8s-chaos-"))
    kept.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        folder=kept.absolute(),
        launchers=launchers,
        seconds=seconds or minutes * MINUTE_S,
        seed=chosen,
        upkeep=upkeep,
        fair_share=fair_share,
        kinds=only,
    )
    progress = Progress()
    progress.say(f"seed {chosen}; configurations and logs are in {plan.folder}")
    outcome = _run(plan, progress)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    for found in outcome.judge.violations:
        click.echo(report.violation(outcome, found))
    console.print(report.table(outcome))
    if outcome.judge.violations:
        raise click.ClickException(f"promises were broken; the logs are in {plan.folder}")
    if folder is None:
        shutil.rmtree(plan.folder, ignore_errors=True)


def _run(plan: Plan, progress: Progress) -> Outcome:
    home = plan.folder / "cluster"
    ours = not sources.named_by_environment(os.environ, home)
    if not ours:
        progress.say("the environment names the cluster: its servers are not restarted")
    cluster = LocalCluster(home, "fake")
    cluster.up(progress)
    try:
        with progress.step("breaking things"):
            return asyncio.run(Run(plan, cluster, ours=ours).run())
    finally:
        cluster.down(progress)
