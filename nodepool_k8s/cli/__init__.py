"""The command line: one module a command, imported only when it is called."""

from __future__ import annotations

import importlib
import sys

import click

from nodepool_k8s import __version__
from nodepool_k8s.errors import ConfigError, NodepoolK8sError, describe

COMMANDS = {
    "launcher": "Serve node requests until stopped.",
    "config-validate": "Check a configuration and name everything that is wrong with it.",
    "request": "Ask for nodes, hold them, and give them back.",
    "list": "List nodes.",
    "request-list": "List node requests.",
    "delete": "Have a node deleted.",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of this file."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help without importing every command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nodepool-k8s")
def group() -> None:
    """A node launcher for Kubernetes that speaks Nodepool's ZooKeeper protocol."""


def main() -> None:
    """The program: every error of ours becomes its text on standard error, and status 1."""
    try:
        group(prog_name="nodepool-k8s")
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"{problem}", err=True)
        sys.exit(1)
    except NodepoolK8sError as error:
        click.echo(f"nodepool-k8s: {describe(error)}", err=True)
        sys.exit(1)
