"""``holdfast completion``: the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from provision.spec.errors import InputError


@click.command("completion", help='Print the shell completion script; e.g. eval "$(holdfast completion bash)".')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    from provision.cli.main import program

    found = get_completion_class(shell)
    if found is None:
        raise InputError(f"no completion for {shell}", "Use bash, zsh or fish.")
    click.echo(found(program, {}, "holdfast", "_HOLDFAST_COMPLETE").source())
