"""The command line: one module a command, imported only when it is called.

Three programs: ``nodepool-k8s``, and under Nodepool's names, where they are installed,
``nodepool`` (the same) and ``nodepool-launcher`` (its ``launcher``).
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
    "config-validate": "Check a configuration and name everything that is wrong with it.",
    "run": "Run a command on a node of its own.",
    "request": "Ask for nodes, hold them, and give them back.",
    "list": "List nodes.",
    "request-list": "List node requests.",
    "label-list": "List the labels that can be asked for.",
    "component-list": "List the pools that launchers have registered.",
    "info": "Show what there is of a provider.",
    "hold": "Keep a node.",
    "delete": "Have a node deleted, or delete it now.",
    "erase": "Remove the records of a provider that is no more.",
    "completion": "Print what makes a shell complete these commands.",
}


BEFORE = "As every command's own; here because Nodepool has it here."


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of this file."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        return load(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command; a usage error that helps where there is none."""
        name = args[0]
        if name not in COMMANDS:
            ctx.fail(f"no such command: {name!r}.{_advice(name)}")
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


def _advice(name: str) -> str:
    if "image" in name.split("-"):
        return " Images are nodepool-builder's; a label here names one that is in a registry."
    near = get_close_matches(name, COMMANDS, n=1)
    return f" Did you mean {near[0]}?" if near else ""


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("-c", "--config", "path", metavar="FILE", type=click.Path(), help=BEFORE)
@click.option("-s", "--secure", "secure_path", metavar="FILE", type=click.Path(), help=BEFORE)
@click.option("-l", "--log-config", metavar="FILE", type=click.Path(), help="How to log.")
@click.option("--debug", is_flag=True, help="Log what happens, on standard error.")
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
    """The program ``nodepool-launcher``: the launcher alone, as Nodepool's units start it."""
    launcher = load("launcher")
    launcher.context_settings = group.context_settings
    _run(launcher, "nodepool-launcher")


def _run(command: click.Command, program: str) -> None:
    """Run a program: every error of ours becomes its text on standard error, and status 1."""
    try:
        command(prog_name=program)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"{problem}", err=True)
        sys.exit(1)
    except NodepoolK8sError as error:
        click.echo(f"{program}: {describe(error)}", err=True)
        sys.exit(1)
