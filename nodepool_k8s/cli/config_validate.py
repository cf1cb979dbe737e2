"""``nodepool-k8s config-validate``: check a configuration and report all problems."""

from __future__ import annotations

import sys

import click

from nodepool_k8s.cli import common
from nodepool_k8s.config import Settings, load
from nodepool_k8s.errors import ConfigError


@click.command("config-validate")
@common.config_options
def command(path: str, secure_path: str | None) -> None:
    """Check a configuration and report all problems.

    Exits 0 if the launcher would accept it, 1 otherwise.
    """
    try:
        settings = load(path, secure_path)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        click.echo(_count(len(error.problems), "problem"), err=True)
        sys.exit(1)
    click.echo(f"{path}: valid: {_summary(settings)}")
    for notice in settings.notices:
        click.echo(f"notice: {notice}")


def _summary(settings: Settings) -> str:
    labels = sum(len(pool.labels) for pool in settings.pools)
    counts = (
        _count(len(settings.providers), "provider"),
        _count(len(settings.pools), "pool"),
        _count(labels, "label"),
    )
    return ", ".join(counts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
