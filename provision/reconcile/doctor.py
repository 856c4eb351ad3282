"""Examine what stands between a plane and its servers: secrets, reachability, versions, privileges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from provision import registry
from provision.reconcile.targets import Note, Targets
from provision.reconcile.workspace import Workspace
from provision.spec import secrets
from provision.spec.errors import HoldfastError, InputError, UnreachableError
from provision.spec.record import Facts


class Finding(NamedTuple):
    """One thing that was examined. ``remedy`` is the command or statement that mends it."""

    subject: str
    message: str
    is_well: bool = True
    remedy: str = ""
    unreachable: bool = False


def examine(specs: Path, env: str, *, cache: Path, note: Note = lambda text: None) -> list[Finding]:
    """Look at every secret and every target of an environment. Changes nothing; never stops at the first fault."""
    workspace = Workspace(specs, env, cache)
    if workspace.errors:
        help = f"See them: holdfast check --specs {specs} --env {env}"
        raise InputError(f"the specs hold {len(workspace.errors)} errors", help)
    targets = Targets(workspace.targets, specs.resolve().parent, env, note)
    try:
        return [*_secrets(workspace, targets), *_postgres(workspace, targets), *_nats(workspace, targets)]
    finally:
        targets.close()


def _secrets(workspace: Workspace, targets: Targets) -> Iterator[Finding]:
    for roles in workspace.passwords.values():
        for role, reference in roles.items():
            name = secrets.describe(reference)
            if targets.is_set(reference):
                yield Finding(f"secret {name}", f"set, for role {role}")
            else:
                yield Finding(f"secret {name}", f"not set; role {role} needs it", False, "Set it and run again.")


def _postgres(workspace: Workspace, targets: Targets) -> Iterator[Finding]:
    from provision.embedded.postgres import is_installed
    from provision.postgres import deployer, ledger
    from provision.postgres.observe import observe

    env = workspace.document.env or ""
    for number, name in enumerate(targets.names("pg")):
        subject = f"postgres {name}"
        secrets_ = {role: ref for role, ref in workspace.passwords.get(name, {}).items() if targets.is_set(ref)}
        try:
            snapshot = observe(
                targets.postgres(name), name, (*registry.postgres_queries(), *deployer.QUERIES),
                ledger=() if number else ledger.queries(workspace.name, env),
                passwords={role: targets.resolve(ref) for role, ref in secrets_.items()},
            )  # fmt: skip
        except HoldfastError as error:
            yield _failure(subject, error)
            continue
        facts, catalog = snapshot.facts, snapshot.catalog
        yield Finding(subject, f"PostgreSQL {_version(facts)} at {targets.postgres_settings(name).place}")
        live = (record for module in registry.postgres_modules() for record in module.decode(catalog))
        has_embedded = is_installed(facts.version[0])
        for what, grant in deployer.missing(facts, catalog, workspace.plane, live, has_embedded=has_embedded):
            yield Finding(subject, f"role {facts.options['role']} cannot {what}", False, f"{grant};")
        wanted = [r.address.name for r in workspace.plane.of_kind("extension") if r.address.target == name]
        for extension in wanted:
            if extension not in facts.options["extensions_available"]:
                yield Finding(subject, f"extension {extension} is not installed there", False, "Install its package.")


def _nats(workspace: Workspace, targets: Targets) -> Iterator[Finding]:
    from provision.nats.observe import facts as look

    kinds = registry.kinds()
    for name in targets.names("nats"):
        subject = f"nats {name}"
        try:
            facts = look(targets.nats(name), name)
        except HoldfastError as error:
            yield _failure(subject, error)
            continue
        yield Finding(subject, f"nats-server {_version(facts)} at {targets.nats_settings(name).place}")
        yield from _permissions(subject, targets, name)
        for record in workspace.plane:
            if record.address[:2] == ("nats", name) and kinds[record.address.kind].nature == "live":
                for option, since in kinds[record.address.kind].unsupported(record, facts):  # type: ignore[attr-defined]
                    needs = ".".join(map(str, since))
                    yield Finding(subject, f"{record.address} wants {option}, which came with {needs}", False,
                                  f"Update the server to {needs}, or take {option} out.")  # fmt: skip


def _permissions(subject: str, targets: Targets, name: str) -> Iterator[Finding]:
    from provision.nats import privileges
    from provision.nats.errors import PermissionDenied

    try:
        told = targets.nats(name).request(privileges.USER_INFO).get("data") or {}
    except PermissionDenied as error:
        yield _failure(subject, error)
        return
    except HoldfastError:
        return  # a server that cannot tell; what is missing shows at the first refused request
    for lack in privileges.lacking(told.get("permissions")):
        yield Finding(subject, f"the NATS user may not {lack}", False, f"Allow it to {lack}.")


def _failure(subject: str, error: HoldfastError) -> Finding:
    return Finding(subject, str(error), False, error.help, isinstance(error, UnreachableError))


def _version(facts: Facts) -> str:
    major_only = facts.system == "pg"
    return ".".join(map(str, facts.version[:2] if major_only else facts.version))
