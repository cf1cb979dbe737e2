"""The command line: one module per command, imported only when the command is called.

Three programs: ``nodepool-k8s``, and, if the aliases are installed, ``nodepool`` (the same)
and ``nodepool-launcher`` (its ``launcher`` command).
"""

from __future__ import annotations

import importlib
import sys
from difflib import get_close_matches

import click

from nodepool_k8s import __version__
from nodepool_k8s.errors import ConfigError, NodepoolK8sError, describe

COMMANDS = {
    "launcher": "Serve node requests until stopped.",
    "config-validate": "Check a configuration and report all problems.",
    "run": "Run a command on a temporary node.",
    "request": "Request nodes, keep them locked, and return them.",
    "list": "List nodes.",
    "request-list": "List node requests.",
    "label-list": "List the labels that can be requested.",
    "component-list": "List the pools that launchers have registered.",
    "info": "Show the pools, quota and nodes of a provider.",
    "hold": "Hold a node.",
    "delete": "Mark a node for deletion, or delete it now.",
    "erase": "Remove the records of a retired provider.",
    "completion": "Print a completion script for a shell.",
}


BEFORE = "Same as the command's own option; accepted here as in Nodepool."


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        return load(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, or a usage error that suggests one."""
        name = args[0]
        if name not in COMMANDS:
            ctx.fail(f"no such command: {name!r}.{_suggestion(name)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help without importing every command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def load(name: str) -> click.Command:
    """A command, by its name."""
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    command: click.Command = module.command
    return command


def _suggestion(name: str) -> str:
    if "image" in name.split("-"):
        return " Images are built by nodepool-builder; labels here name images in a registry."
    near = get_close_matches(name, COMMANDS, n=1)
    return f" Did you mean {near[0]}?" if near else ""


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("-c", "--config", "path", metavar="FILE", type=click.Path(), help=BEFORE)
@click.option("-s", "--secure", "secure_path", metavar="FILE", type=click.Path(), help=BEFORE)
@click.option("-l", "--log-config", metavar="FILE", type=click.Path(), help="Log configuration.")
@click.option("--debug", is_flag=True, help="Log at debug level, to standard error.")
@click.pass_context
def group(ctx: click.Context, /, **options: str | bool | None) -> None:
    """A node launcher for Kubernetes that speaks Nodepool's ZooKeeper protocol."""
    given = {name: value for name, value in options.items() if value}
    ctx.default_map = dict.fromkeys(COMMANDS, given)


def main() -> None:
    """The program ``nodepool-k8s``."""
    _run(group, "nodepool-k8s")


def nodepool() -> None:
    """The program ``nodepool``: the same commands under Nodepool's name."""
    _run(group, "nodepool")


def nodepool_launcher() -> None:
    """The program ``nodepool-launcher``: only the launcher, as Nodepool's units start it."""
    launcher = load("launcher")
    launcher.context_settings = group.context_settings
    _run(launcher, "nodepool-launcher")


def _run(command: click.Command, program: str) -> None:
    """Run a program; print our own errors to standard error, and exit with status 1."""
    try:
        command(prog_name=program)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"{problem}", err=True)
        sys.exit(1)
    except NodepoolK8sError as error:
        click.echo(f"{program}: {describe(error)}", err=True)
        sys.exit(1)
