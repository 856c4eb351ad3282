"""Whose objects a migration makes."""

from __future__ import annotations

from provision.migrate.files import Migration
from provision.migrate.lint.agreement import touched
from provision.migrate.lint.catalog import Catalog
from provision.migrate.lint.parsing import parse
from provision.spec.record import Plane


def is_owned_by_specs(migration: Migration, plane: Plane) -> bool:
    """Whether every object that the way there touches lies in a schema with ``managed: declarative``.

    What stands in the body of a DO block is taken on the word of ``covered-by: specs``.
    """
    catalog = Catalog(plane)
    for statement in migration.up.statements:
        parsed = parse(statement)
        if parsed.fault is not None or any(schema not in catalog.declarative for schema, _ in touched(parsed, catalog)):
            return False
        catalog.apply(parsed)
    return True
