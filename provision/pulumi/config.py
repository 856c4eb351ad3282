"""The provider's own inputs: which plane, where its servers are, what is allowed. Judged without touching a server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from provision.plan.consents import is_consent
from provision.pulumi.protocol import UNKNOWN, Failure, Values, has_unknown
from provision.spec import target as targets
from provision.spec.fields import FieldError
from provision.spec.schema import targets_schema
from provision.spec.target import NAME_PATTERN, Target

#: Inputs with which the plane is another one.
IDENTITY = ("plane", "env")
NAMES = frozenset({*IDENTITY, "root", "targets", "allow", "secrets", "version", "pluginDownloadURL"})


class Config(NamedTuple):
    """The provider's inputs, read. ``is_known`` is false in a preview of targets that do not exist yet."""

    plane: str
    env: str
    root: Path
    targets: Mapping[tuple[str, str], Target]
    allow: tuple[str, ...]
    secrets: Mapping[str, str]
    is_known: bool


def failures(news: Values) -> Iterator[Failure]:
    """Give what is wrong with the inputs; unknown ones are believed."""
    for name in news.keys() - NAMES:
        yield Failure((name,), f"the provider takes no {name}; it takes {', '.join(sorted(NAMES))}")
    for name in IDENTITY:
        value = news.get(name)
        if value is not UNKNOWN and not (isinstance(value, str) and re.fullmatch(NAME_PATTERN, value)):
            yield Failure((name,), f"{name} must be a name: letters, digits, - and _, at most 63")
    for index, consent in enumerate(_list(news.get("allow"))):
        if consent is not UNKNOWN and not is_consent(str(consent)):
            yield Failure(("allow", index), f"{consent} is not a consent; write KIND:ADDRESS, as preview names it")
    section = news.get("targets")
    if not section:
        yield Failure(("targets",), "the provider needs the targets of the plane, at least one")
    elif not has_unknown(section):
        yield from _wrong_targets(section)


def read(news: Values) -> Config:
    """Read inputs that were found good. The folder is the one that the program's paths are relative to."""
    is_known = not has_unknown({k: v for k, v in news.items() if k != "secrets"})
    found: dict[tuple[str, str], Target] = {}
    section = news.get("targets")
    if isinstance(section, Mapping) and is_known:
        found = {(t.system, t.name): t for t in targets.parse(section) if isinstance(t, Target)}
    secrets = news.get("secrets")
    known = {k: str(v) for k, v in secrets.items() if v is not UNKNOWN} if isinstance(secrets, Mapping) else {}
    return Config(
        str(news["plane"]),
        str(news["env"]),
        Path(str(news.get("root") or ".")).resolve(),
        found,
        tuple(str(c) for c in _list(news.get("allow")) if c is not UNKNOWN),
        known,
        is_known,
    )


def _wrong_targets(section: Any) -> Iterator[Failure]:
    root, findings, _ = targets_schema().prune({"targets": section})
    for finding in findings:
        yield Failure(finding.pointer, f"{finding.message}. {finding.help}".strip())
    for item in targets.parse(root.get("targets") or {}):
        if not isinstance(item, Target):
            pointer, error = item
            yield Failure(pointer, _sentence(error))


def _sentence(error: FieldError) -> str:
    return f"{error}. {error.help}" if error.help else str(error)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else []
