"""``holdfast dev``: embedded servers for one environment."""

from __future__ import annotations

import shlex

import click

from provision.cli import exits
from provision.cli.output import confirm, is_attended, options, say, show, table
from provision.spec.errors import InputError


class _InOrder(click.Group):
    """Lists its commands in the order of their use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group("dev", cls=_InOrder, help="Start and stop embedded servers.")
def command() -> None:
    pass


@command.command("up", help="Start the embedded servers of an environment; safe to repeat.")
def up() -> None:
    from provision.reconcile import local

    running = local.up(options().specs, options().environment)
    for note in running.notes:
        say(note)
    say(f"started {', '.join(running.started)}" if running.started else "already running")
    show(_table(running))


@command.command("down", help="Stop the embedded servers; their data stays.")
def down() -> None:
    from provision.reconcile import local

    stopped = local.down(options().specs, options().environment)
    say(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


@command.command("status", help="Show the embedded servers.")
def status() -> int:
    from provision.reconcile import local

    running = local.status(options().specs, options().environment)
    if running is None:
        say("never started; run: holdfast dev up")
        return exits.FAILED
    show(_table(running))
    return exits.DONE if running.is_up else exits.FAILED


@command.command("env", help='Print the variables that reach the embedded servers: eval "$(holdfast dev env)".')
def env() -> int:
    """Give a shell, and so the runtime library, what the contract of an embedded plane cannot hold."""
    from provision.reconcile import local

    variables = local.variables(options().specs, options().environment)
    if variables is None:
        say("never started; run: holdfast dev up")
        return exits.FAILED
    show("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
    return exits.DONE


@command.command("reset", help="Stop the embedded servers and delete their data.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(yes: bool) -> int:
    from provision.reconcile import local

    env = options().environment
    if not yes:
        if not is_attended():
            raise InputError("nobody is here to answer, so nothing was deleted", "Add --yes.")
        if not confirm(f"Delete all local data of environment {env}?"):
            return exits.FAILED
    say("deleted" if local.reset(options().specs, env) else "there was nothing to delete")
    return exits.DONE


def _table(running: object) -> str:
    from provision.embedded.environment import Running

    assert isinstance(running, Running)
    rows = [
        ("postgres", name, s.version, f"{s.host}:{s.port}/{s.database}", _state(s.pid))
        for name, s in running.postgres.items()
    ] + [("nats", name, s.version, s.url, _state(s.pid)) for name, s in running.nats.items()]
    return table(rows, ("system", "target", "version", "address", "state"))


def _state(pid: int | None) -> str:
    return "down" if pid is None else f"up, pid {pid}"
