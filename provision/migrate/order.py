"""Which files to run, from the folder and the history; and every reason to run none. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from provision.migrate.files import Migration, order_of
from provision.migrate.history import Standing, standing_of
from provision.spec.errors import InputError

Standings = Mapping[str, Standing]


def ahead(migrations: Sequence[Migration], standings: Standings, to: str | None = None) -> list[Migration]:
    """The files that ``up`` runs, oldest first. Raises InputError for a folder that does not fit the history.

    A plane that ``apply`` made has its covered files baselined; what it could not make, and rows that wait to be
    carried, run although files after them are in effect.
    """
    refuse_changed(migrations, standings)
    _refuse_unfinished(migrations, standings, "down")
    _refuse_late(migrations, standings)
    last = None if to is None else _known(migrations, to)
    pending = [m for m in migrations if not standing_of(standings, m.version).is_applied]
    chosen = [m for m in pending if last is None or m.number <= last.number]
    if (
        not chosen
        and last is not None
        and standing_of(standings, last.version).is_applied
        and any(standing_of(standings, m.version).is_applied for m in migrations if m.number > last.number)
    ):
        raise InputError(
            f"{to} is applied, and so are later versions", f"To go back to it: holdfast migrate down --to {to}"
        )
    return chosen


def back(migrations: Sequence[Migration], standings: Standings, to: str | None = None) -> list[Migration]:
    """The files that ``down`` rolls back, newest first: the newest one, or all later than ``to`` ("0": all).

    Raises InputError for a folder that does not fit the history, and where one of them has no way back.
    """
    refuse_changed(migrations, standings)
    _refuse_unfinished(migrations, standings, "up")
    applied = [m for m in reversed(migrations) if standing_of(standings, m.version).is_applied]
    if to is None:
        chosen = applied[:1]
    else:
        floor = 0 if to == "0" else _known(migrations, to).number
        chosen = [m for m in applied if m.number > floor]
    for migration in chosen:
        if migration.down is None:
            name = migration.up.file.removesuffix(".up.sql") + ".down.sql"
            raise InputError(
                f"{migration.version} ({migration.name}) has no way back, so nothing was rolled back",
                f"Write {name}, or undo its effect in a new migration.",
            )
    return chosen


def refuse_changed(migrations: Sequence[Migration], standings: Standings) -> None:
    """Raise InputError where an applied file is gone or is not what it was. A half-applied one may get a new end."""
    known = {m.version: m for m in migrations}
    for version in sorted(standings, key=order_of):
        standing = standings[version]
        if not standing.is_applied and standing.unfinished is None:
            continue
        migration = known.get(version)
        if migration is None:
            raise InputError(
                f"version {version} was applied, and no file of this folder has it",
                "Bring its file back (git log --all -- migrations): every runner needs the same folder.",
            )
        if standing.is_applied and migration.up.digest != standing.sql_hash:
            raise InputError(
                f"{migration.up.file} was changed after version {version} was applied: its SHA-256 is"
                f" {migration.up.digest[:12]}…, history has {standing.sql_hash[:12]}…",
                f"Put it back (git log -p -- {migration.up.file}) and make the change in a new migration.",
            )


def _refuse_unfinished(migrations: Sequence[Migration], standings: Standings, direction: str) -> None:
    for migration in migrations:
        standing = standing_of(standings, migration.version)
        if standing.unfinished == direction:
            word = "applied" if direction == "up" else "rolled back"
            raise InputError(
                f"{migration.version} ({migration.name}) is {word} by half",
                f"Finish it first: holdfast migrate {direction}",
            )


def _refuse_late(migrations: Sequence[Migration], standings: Standings) -> None:
    """A file that slipped in before applied ones would run after what was written to follow it.

    Baselined ones did not run: what was made in their place is there whatever comes now.
    """
    standing = {m.version: standing_of(standings, m.version) for m in migrations}
    ran = [m for m in migrations if standing[m.version].is_applied and not standing[m.version].is_baselined]
    for migration in migrations:
        later = next((m for m in reversed(ran) if m.number > migration.number), None)
        if later is not None and not standing[migration.version].is_applied:
            raise InputError(
                f"{migration.up.file} ({migration.version}) was never applied, and {later.version} after it was",
                f"Renumber it as the last, with a version later than {migrations[-1].version};"
                " where its effect is there already: holdfast migrate baseline " + migration.version,
            )


def _known(migrations: Sequence[Migration], version: str) -> Migration:
    found = next((m for m in migrations if m.version == version), None)
    if found is None:
        known = ", ".join(m.version for m in migrations[-5:]) or "none"
        raise InputError(f"no file has version {version}", f"The latest are: {known}.")
    return found


def baselined(migrations: Sequence[Migration], standings: Standings, version: str) -> list[Migration]:
    """The files up to a version that a baseline would record as applied. Raises InputError."""
    refuse_changed(migrations, standings)
    last = _known(migrations, version)
    found = [m for m in migrations if m.number <= last.number and not standing_of(standings, m.version).is_applied]
    for migration in found:
        if standing_of(standings, migration.version).unfinished is not None:
            raise InputError(f"{migration.version} is applied by half", "Finish it first: holdfast migrate up")
    return found
