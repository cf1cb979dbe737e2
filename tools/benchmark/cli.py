"""``tools/bench``: the options, and what is printed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click
from cluster import Progress
from rich.console import Console

from benchmark import recovery, report, scale
from benchmark import runs as commands
from benchmark.campaign import REAL, Campaign, Plan
from benchmark.figures import NAMES
from benchmark.floor import IN_FLIGHT
from benchmark.measures import FULL, QUICK

RUNS = 3
COMMANDS = 200
"""Runs of a command, with --run."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", type=click.IntRange(1), help="How many runs: 3, or with --run 200.")
@click.option(
    "--quick", is_flag=True, help="One run with 30 nodes, to check that everything works."
)
@click.option(
    "--peer",
    is_flag=True,
    help="Measure Nodepool 11.0.0, too (in a virtual environment of its own).",
)
@click.option("--real", is_flag=True, help="Measure deletion on a real node, too.")
@click.option(
    "--scale",
    "growing",
    is_flag=True,
    help="Measure instead how costs grow with thousands of nodes and waiting requests.",
)
@click.option(
    "--run",
    "running",
    is_flag=True,
    help="Measure instead nodepool-k8s run against kubectl run, on a real node.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("build/scale.png"),
    show_default=True,
    help="Where --scale writes its picture.",
)
@click.option(
    "--recovery",
    "recovering",
    is_flag=True,
    help="Measure instead how soon the launcher works again after an outage.",
)
@click.option(
    "--only",
    type=click.Choice(NAMES),
    multiple=True,
    help="Only the steps that show this quantity; may be repeated.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the readings of every run to this file.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(1, 100),
    default=IN_FLIGHT,
    show_default=True,
    help="Nodes that the floor creates concurrently in a burst; use the fastest number.",
)
@click.option(
    "--profile",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Run the launcher once under cProfile and write this file; its figures are slower.",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep configurations and logs here; by default they are kept only after a failure.",
)
def main(
    runs: int | None,
    quick: bool,
    peer: bool,
    real: bool,
    growing: bool,
    running: bool,
    plot: Path,
    recovering: bool,
    only: tuple[str, ...],
    json_file: Path | None,
    in_flight: int,
    profile: Path | None,
    folder: Path | None,
) -> None:
    """Measure the launcher, and the floor below it, under a load like Zuul's."""
    # A terminated benchmark takes its cluster down as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    plan = Plan(
        folder=(folder or Path(tempfile.mkdtemp(prefix="nodepool-k8s-bench-"))).absolute(),
        names=list(only) or [name for name in NAMES if real or name != REAL],
        runs=1 if quick or profile else runs or RUNS,
        scale=QUICK if quick else FULL,
        in_flight=in_flight,
        peer=peer,
        real=real or REAL in only,
        profile=profile.absolute() if profile else None,
    )
    campaign = Campaign(plan, Progress())
    if growing:
        _grow(campaign, plot)
        return
    if recovering:
        _recover(campaign)
        return
    if running:
        _run_commands(campaign, runs or COMMANDS)
        return
    campaign.run()
    _print(campaign)
    if json_file is not None:
        json_file.write_text(json.dumps(_document(campaign), indent=1) + "\n", encoding="utf-8")
    if campaign.failures:
        raise click.ClickException(f"some measurements failed; logs are in {plan.folder}")
    if folder is None:
        shutil.rmtree(plan.folder, ignore_errors=True)


def _grow(campaign: Campaign, plot: Path) -> None:
    found = campaign.run_scale()
    if found is None:
        raise click.ClickException("; ".join(campaign.failures))
    _console().print(scale.table(found))
    scale.plot(found, plot)
    click.echo(f"the picture is {plot}")
    shutil.rmtree(campaign.plan.folder, ignore_errors=True)


def _recover(campaign: Campaign) -> None:
    found = campaign.run_recovery()
    if found is None:
        raise click.ClickException("; ".join(campaign.failures))
    _console().print(recovery.table(found))
    shutil.rmtree(campaign.plan.folder, ignore_errors=True)


def _run_commands(campaign: Campaign, count: int) -> None:
    found = campaign.run_runs(count)
    if found is None:
        raise click.ClickException("; ".join(campaign.failures))
    _console().print(commands.table(found))
    shutil.rmtree(campaign.plan.folder, ignore_errors=True)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=140)


def _print(campaign: Campaign) -> None:
    plan = campaign.plan
    _console().print(report.table(campaign.readings, plan.names, plan.peer, plan.runs))


def _document(campaign: Campaign) -> dict[str, object]:
    plan = campaign.plan
    options = {
        "runs": plan.runs,
        "scale": dataclasses.asdict(plan.scale),
        "in_flight": plan.in_flight,
        "peer": plan.peer,
        "real": plan.real,
        "load_before": round(campaign.load, 2),
        "profile": plan.profile is not None,
    }
    return report.document(campaign.readings, plan.names, options, campaign.failures)
