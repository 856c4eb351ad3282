"""Rules about extensions: what needs one, and whether the target has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.checks.postgres_names import (
    BUILT_IN_INSTEAD,
    EXTENSION_OF_FUNCTION,
    EXTENSION_OF_METHOD,
    EXTENSION_OF_OPCLASS_SUFFIX,
    EXTENSION_OF_TYPE,
)
from provision.checks.rule import Finding, rule
from provision.spec.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene
    from provision.spec.record import Pointer, Record


@rule("HF0304", "extension-not-declared", "extension")
def extension_not_declared(scene: Scene) -> Iterator[Finding]:
    """Type, index method or operator class needs an extension that is not declared.

    `vector` and its indexes come with pgvector, trigram classes with pg_trgm, and so on; without the extension the
    server does not know the name (SQLSTATE 42704).

    Fix: declare it under `extensions`.

    Source: PostgreSQL documentation, CREATE EXTENSION; pgvector, README. Mistakes: SB-20.

    Bad:
        schemas:
          shop:
            tables:
              items: {columns: {v: {type: public.vector(3), nullable: false}}}

    Good:
        extensions: {vector: {}}
        schemas:
          shop:
            tables:
              items: {columns: {v: {type: public.vector(3), nullable: false}}}
    """
    for record, where, what, extension in _extension_uses(scene):
        if (record.address.target, extension) not in scene.extensions and not scene.written("extensions", extension):
            yield Finding(
                where,
                f"extension {extension} is not declared, and {what} of {scene.name(record)} needs it",
                f"Declare extensions: {{{extension}: {{}}}}.",
            )


def _extension_uses(scene: Scene) -> Iterator[tuple[Record, Pointer, str, str]]:
    for record, path, name in scene.undeclared_types:
        if name.name in EXTENSION_OF_TYPE:
            yield record, (*(record.origin or ()), *path), f"type {name.name}", EXTENSION_OF_TYPE[name.name]
    for _, index in scene.indexes:
        if index.method in EXTENSION_OF_METHOD:
            where = (*index.origin, "method")
            yield index.record, where, f"method {index.method}", EXTENSION_OF_METHOD[index.method]
        for i, item in enumerate(index.items if index.has_opclass else ()):
            for suffix, extension in EXTENSION_OF_OPCLASS_SUFFIX.items() if item.opclass else ():
                if item.opclass and item.opclass.endswith(suffix):
                    yield index.record, (*index.origin, "columns", i, "opclass"), item.opclass, extension


@rule("HF0411", "function-needs-extension", "function")
def function_needs_extension(scene: Scene) -> Iterator[Finding]:
    """SQL calls a function of an extension that is not declared.

    The call fails when it runs (SQLSTATE 42883), in a PL/pgSQL body long after it was created.

    Fix: use the built-in function, or declare the extension.

    Source: PostgreSQL documentation, Additional Supplied Modules; Binary String Functions. Mistakes: SB-34.

    Bad:
        schemas:
          shop:
            functions:
              fingerprint:
                arguments: [{name: x, type: text}]
                returns: text
                language: sql
                body: SELECT encode(public.digest(x, 'sha256'), 'hex')

    Good:
        schemas:
          shop:
            functions:
              fingerprint:
                arguments: [{name: x, type: text}]
                returns: text
                language: sql
                body: SELECT encode(sha256(convert_to(x, 'UTF8')), 'hex')
    """
    for text in scene.texts:
        if not text.sql.mentions & EXTENSION_OF_FUNCTION.keys():
            continue
        target = text.record.address.target
        for call in text.sql.called:
            extension = EXTENSION_OF_FUNCTION.get(call.last)
            if extension is None or (target, extension) in scene.extensions:
                continue
            if (target, call.qualified) in scene.functions:
                continue
            instead = BUILT_IN_INSTEAD.get(call.last, "")
            yield Finding(
                text.where,
                f"function {call.last}() belongs to the extension {extension}, which is not declared",
                f"{instead + '; or declare' if instead else 'Declare'} extensions: {{{extension}: {{}}}}.",
                offset=text.tokens[call.first].start,
            )


@rule("HF0709", "extension-missing-on-target", "extension", level="cross-resource")
def extension_missing_on_target(scene: Scene) -> Iterator[Finding]:
    """Target cannot create a declared extension.

    A target may say which extensions its server offers; CREATE EXTENSION fails for others (SQLSTATE 0A000).

    Fix: install it there, or leave out what needs it in this environment.

    Source: PostgreSQL documentation, CREATE EXTENSION. Mistakes: SB-20.

    Bad:
        targets: {postgres: {main: {kind: external, host: db, extensions: [pg_trgm]}}}
        extensions: {vector: {}}

    Good:
        targets: {postgres: {main: {kind: external, host: db, extensions: [pg_trgm, vector]}}}
        extensions: {vector: {}}
    """
    for record in scene.of("extension"):
        offered = scene.fact(record, "extensions")
        if offered is not None and record.address.name not in offered and record.address.name != "plpgsql":
            yield Finding(
                record.origin or (),
                f"extension {record.address.name} is not among those that target {record.address.target} offers",
                nearest(record.address.name, offered, "Install it there, and declare it under extensions."),
                at_key=True,
            )


RULES = (extension_not_declared, function_needs_extension, extension_missing_on_target)
