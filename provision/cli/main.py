"""Entry point: the group, the options that every command shares, and the one place where errors become exits."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from provision.cli import exits
from provision.spec.errors import HoldfastError

#: Command name -> (module below provision.cli, attribute, one-line help). Modules load when first used.
COMMANDS: dict[str, tuple[str, str]] = {
    "check": ("check", "Report every mistake in the specs."),
    "plan": ("plan", "Show the steps that lead from the live plane to the specs."),
    "apply": ("apply", "Do the steps of a plan."),
    "drift": ("drift", "Show where the live plane departs from the specs."),
    "destroy": ("destroy", "Remove what this plane owns."),
    "manifests": ("manifests", "Print the Kubernetes objects of clusters."),
    "migrate": ("migrate", "Write, apply and roll back versioned migrations."),
    "import": ("import_", "Write specs from live servers."),
    "status": ("status", "Show targets, objects and the last runs."),
    "partitions": ("partitions", "Keep partitions ahead of time, and retire what expired."),
    "doctor": ("doctor", "Test reachability, versions and privileges."),
    "init": ("init", "Start a folder of specs."),
    "explain": ("explain", "Print the page of a diagnostic code."),
    "schema": ("schema", "Print the JSON Schemas of the spec language."),
    "dev": ("dev", "Start and stop embedded servers."),
    "completion": ("completion", "Print the shell completion script."),
}


@dataclass(frozen=True)
class Options:
    """What every command shares. ``env`` is None where the user named none."""

    specs: Path = Path("specs")
    env: str | None = None
    verbose: bool = False
    color: bool = True

    @property
    def environment(self) -> str:
        return self.env or "dev"

    @property
    def root(self) -> Path:
        """The folder that holds specs/ and .holdfast/."""
        return self.specs.resolve().parent

    @property
    def cache(self) -> Path:
        """The user's cache folder for parsed specs, canonical expressions and scratch servers."""
        from provision.reconcile.folders import cache_folder

        return cache_folder()


def _remember(name: str) -> Any:
    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None and ctx.get_parameter_source(str(param.name)) != click.core.ParameterSource.DEFAULT:
            ctx.obj = replace(ctx.find_object(Options) or Options(), **{name: value})

    return callback


def _environments(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from provision.spec.files import environments

    found = ctx.find_object(Options) or Options()
    return [name for name in environments(found.specs) if name.startswith(incomplete)]


def shared_options() -> list[click.Option]:
    """Fresh copies of --specs, --env, -v and --no-color, for the group and for each command."""
    return [
        click.Option(
            ["--specs"], type=click.Path(path_type=Path), expose_value=False, callback=_remember("specs"),
            help="Folder of specs (default: specs).", metavar="DIR",
        ),
        click.Option(
            ["--env"], expose_value=False, callback=_remember("env"), metavar="NAME", shell_complete=_environments,
            help="Environment (default: dev; check alone: all).",
        ),
        click.Option(
            ["-v", "--verbose"], is_flag=True, default=None, expose_value=False, callback=_remember("verbose"),
            help="Show more: each request, each file.",
        ),
        click.Option(
            ["--no-color", "color"], flag_value=False, is_flag=True, default=None, expose_value=False,
            callback=_remember("color"), help="No colours, also when writing to a terminal.",
        ),
    ]  # fmt: skip


class Program(click.Group):
    """The group that loads a command's module only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"provision.cli.{COMMANDS[cmd_name][0]}").command
        _share(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"{error.message.rstrip('.')}.{hint}", ctx) from None


def _share(command: click.Command) -> None:
    known = {p.name for p in command.params}
    command.params += [o for o in shared_options() if o.name not in known]
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _share(child)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from provision import __version__

        click.echo(f"holdfast {__version__}")
        ctx.exit()


program = Program(
    name="holdfast",
    help="One declarative provisioner for a NATS JetStream and PostgreSQL data plane.",
    params=[
        *shared_options(),
        click.Option(
            ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "obj": Options()},
)


def main() -> None:
    """Run a command; every expected failure ends as one message and its documented exit code."""
    # A command lives for seconds and keeps nearly all it makes: collecting would only walk thousands of records.
    gc.disable()
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run with arguments and give the exit code."""
    try:
        result = program.main(args, prog_name="holdfast", standalone_mode=False)
        return result if isinstance(result, int) else exits.DONE
    except click.exceptions.Abort:
        click.echo("interrupted; run the same command again to continue", err=True)
        return exits.INTERRUPTED
    except KeyboardInterrupt:
        click.echo("interrupted; run the same command again to continue", err=True)
        return exits.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return exits.FAILED
    except HoldfastError as error:
        click.echo(f"error: {error}", err=True)
        if error.help:
            click.echo(f"  {error.help}", err=True)
        return exits.code_of(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED
    except OSError as error:
        # A file that cannot be read or written, a full disk: the user's to mend, and no defect of ours.
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {place}{error.strerror or error}", err=True)
        return exits.FAILED
