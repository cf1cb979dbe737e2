"""``nodepool-k8s completion SHELL``: a script that completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print a script that completes commands and options in SHELL.

    \b
    bash, in ~/.bashrc:     eval "$(nodepool-k8s completion bash)"
    zsh, in ~/.zshrc:       eval "$(nodepool-k8s completion zsh)"
    fish, in config.fish:   nodepool-k8s completion fish | source
    """
    root = context.find_root()
    program = root.info_name or "nodepool-k8s"
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root.command, {}, program, variable).source())
