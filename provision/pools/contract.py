"""The contract: what a plane tells the runtime. Written last in an apply, compared by plan like any object.

``contract.schema.json`` beside this module defines the content; the distribution ``holdfast`` carries an
equal copy. Every duration is an integer of nanoseconds, every size of bytes, every secret a reference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from provision.spec.change import Api, Change, Context, Draft, Lowered, Request, Sql
from provision.spec.fields import Field, FieldTable, Type
from provision.spec.ident import Address
from provision.spec.kind import Kind, PlainKind
from provision.spec.record import Facts, Plane, Record, Settings

#: Readers accept the same major and ignore what they do not know.
CONTRACT_VERSION = "1.0"
#: The bucket that keeps contracts, and ownership where there is no Postgres.
BUCKET = "HOLDFAST"
#: Kinds that live in the contract only.
DECLARED = frozenset({"pool", "publisher", "template", "binding"})
#: What the contract says of the objects that live on servers, by kind.
FACTS: Mapping[str, tuple[str, ...]] = {
    "stream": ("subjects", "max_age", "max_bytes", "max_msgs", "max_msg_size", "duplicate_window"),
    "bucket": ("ttl", "history", "max_bytes", "max_value_size", "allow_direct", "allow_msg_ttl", "journal"),
}
#: Digests are added up modulo this.
_MODULUS = 1 << 256

#: System (``nats``, ``postgres``) -> target -> how a client reaches it, references in place of secrets.
Reach = Mapping[str, Mapping[str, Mapping[str, Any]]]
Kinds = Mapping[str, Kind]
#: The contract does not change with the time, so what a kind fills in by the clock is never part of it.
_NO_CLOCK = datetime(2000, 1, 1, tzinfo=UTC)


def address(plane: str, env: str) -> Address:
    """The address of the contract of a plane in an environment."""
    return Address.root("plane", "main", "contract", f"{plane}.{env}")


def key(plane: str, env: str) -> str:
    """The key that holds it in the bucket."""
    return f"contract.{plane}.{env}"


def record(desired: Plane, targets: Reach | None = None, kinds: Kinds | None = None) -> Record:
    """Give the desired record of the contract; ``desired`` holds everything else, completed."""
    return Record(address(desired.name, desired.env), {"content": build(desired, targets, kinds)})


def completed(desired: Plane, kinds: Kinds, facts: Mapping[tuple[str, str], Facts]) -> Plane:
    """Give the plane as a server without it would make it: what specs leave to the server is filled in.

    So the contract tells the runtime what holds, and is the same however much of it the specs spell out.
    """
    found: list[Record] = []
    for record in desired:
        kind = kinds[record.address.kind]
        if type(kind).settle is not PlainKind.settle:
            wanted, unasked = kind.settle(record, None, facts[record.address[:2]], _NO_CLOCK)
            if wanted is None or (unasked is not None and wanted.settings == unasked.settings):
                continue
            record = wanted
        found.append(record)
    return Plane(found, name=desired.name, env=desired.env)


def place(plane: str, env: str) -> dict[str, str]:
    """Where a client finds the contract of a plane that has NATS."""
    return {"bucket": BUCKET, "key": key(plane, env)}


class Share(NamedTuple):
    """What some objects contribute to the contract: a summand of its digest, and entries by address."""

    digest: int
    entries: Mapping[Address, Mapping[str, Any]]


def encode(part: Share) -> dict[str, str]:
    """A share as two texts, for those whose numbers are doubles."""
    entries = {str(address): entry for address, entry in part.entries.items()}
    return {"digest": f"{part.digest:064x}", "entries": json.dumps(entries, sort_keys=True)}


def decode(texts: Mapping[str, str]) -> Share:
    """The share that ``encode`` wrote."""
    entries = json.loads(texts["entries"])
    return Share(int(texts["digest"], 16), {_address(text): entry for text, entry in entries.items()})


def _address(text: str) -> Address:
    """The address of an object whose path ends in its kind and its name, as that of every entry does."""
    place, *path = text.split("/")
    system, _, target = place.partition(":")
    return Address(system, target, path[-2], tuple(path))


def share(records: Iterable[Record], kinds: Kinds | None = None) -> Share:
    """Give the share of some objects. The shares of the parts of a plane add up to that of the whole.

    Left out of the digest is what no server could give back: settings of the specs alone, and those they may
    leave to it.
    """
    total, entries = 0, dict[Address, Mapping[str, Any]]()
    for record in records:
        if record.address.kind == "contract":
            continue
        row = json.dumps([str(record.address), _telling(record, kinds)], sort_keys=True, separators=(",", ":"),
                         ensure_ascii=False)  # fmt: skip
        total += int.from_bytes(hashlib.sha256(row.encode()).digest(), "big")
        entry = _entry(record)
        if entry is not None:
            entries[record.address] = entry
    return Share(total % _MODULUS, entries)


def build(desired: Plane, targets: Reach | None = None, kinds: Kinds | None = None) -> dict[str, Any]:
    """Give the content for a plane. Its values are JSON, equal to what a store gives back."""
    return content(desired.name, desired.env, targets, [share(desired, kinds)])


def content(plane: str, env: str, targets: Reach | None, shares: Iterable[Share]) -> dict[str, Any]:
    """Give the content from the shares of all parts of a plane."""
    total, entries = 0, dict[Address, Mapping[str, Any]]()
    for part in shares:
        total += part.digest
        entries |= part.entries
    bindings = {name: entry["value"] for name, entry in _of_kind(entries, "binding")}
    whole = {
        "contract_version": CONTRACT_VERSION,
        "plane": plane,
        "env": env,
        "digest": f"sha256:{total % _MODULUS:064x}",
        "targets": {"nats": {}, "postgres": {}, **(targets or {})},
        "names": {name: value for name, value in bindings.items() if isinstance(value, str)},
        "limits": {name: value for name, value in bindings.items() if not isinstance(value, str)},
        "pools": dict(_of_kind(entries, "pool")),
        "roles": _roles(entries),
        "streams": dict(_of_kind(entries, "stream")),
        "buckets": dict(_of_kind(entries, "bucket")),
        "templates": _templates(entries),
        "publishers": dict(_of_kind(entries, "publisher")),
    }
    plain: dict[str, Any] = json.loads(json.dumps(whole))
    return plain


def digest(desired: Plane, kinds: Kinds | None = None) -> str:
    """Name the declared plane: over addresses and settings, whatever files they were written in.

    It is the sum of the SHA-256 of all objects, so that parts of a plane can be named apart.
    """
    return f"sha256:{share(desired, kinds).digest:064x}"


def _telling(record: Record, kinds: Kinds | None) -> Settings:
    kind = (kinds or {}).get(record.address.kind)
    silent = kind.spec_only | kind.left_to_server if kind is not None else frozenset()
    return {name: value for name, value in record.settings.items() if name not in silent}


def is_readable(content: Mapping[str, Any]) -> bool:
    """Whether this version of us understands a stored contract: the majors are equal."""
    major = str(content.get("contract_version", "")).partition(".")[0]
    return major == CONTRACT_VERSION.partition(".")[0]


def declared_records(content: Mapping[str, Any]) -> Iterator[Record]:
    """Give the live side of the declared kinds, and the contract's own record, from a stored contract."""
    yield Record(address(content["plane"], content["env"]), {"content": dict(content)})
    for name, value in {**content["names"], **content["limits"]}.items():
        yield Record(Address.root("plane", "main", "binding", name), {"value": value})
    for kind in ("pool", "publisher"):
        for name, entry in content[f"{kind}s"].items():
            yield Record(Address.root("plane", entry["target"], kind, name), _settings(entry))
    for stream, templates in content["templates"].items():
        for name, entry in templates.items():
            parent = Address.root("nats", entry["target"], "stream", stream)
            yield Record(parent.child("template", name), _settings(entry), parent)


def pools(shares: Iterable[Share]) -> Iterator[Record]:
    """The pools that some shares hold."""
    for part in shares:
        for address, entry in part.entries.items():
            if address.kind == "pool":
                yield Record(address, _settings(entry))


class ContractKind(PlainKind):
    """The contract of one plane in one environment."""

    name = "contract"
    system = "plane"
    fields = FieldTable(
        Field(name="content", type=Type({"type": "object"}), required=True, doc="What the runtime reads."),
    )

    def lower(self, change: Change, context: Context) -> Lowered:
        """One write, which takes care of every change of a declared kind."""
        declared = (a for a in context.changes if a.kind in DECLARED)
        name = change.address.name
        has_nats = bool(change.record.settings["content"]["targets"]["nats"])
        content = None if change.after is None else change.after.settings["content"]
        removed = content is None
        draft = Draft(
            object=change.address,
            action="delete" if removed else change.action,
            request=_request(name, content, has_nats),
            summary=f"{'remove' if removed else 'write'} the contract of {name}",
            makes=() if removed else (change.address,),
            destroys=(change.address,) if removed else (),
        )
        return Lowered((draft,), (change.address, *declared))


KIND = ContractKind()


def _request(name: str, content: Mapping[str, Any] | None, has_nats: bool) -> Request:
    plane, _, env = name.rpartition(".")
    if has_nats:
        subject = f"$KV.{BUCKET}.{key(plane, env)}"
        if content is None:
            return Api(f"$JS.API.STREAM.PURGE.KV_{BUCKET}", {"filter": subject})
        # A request to the bucket's own subject is answered with the acknowledgement of the write.
        return Api(subject, content)
    where = f"plane = {_literal(plane)} AND env = {_literal(env)}"
    if content is None:
        return Sql(f"DELETE FROM holdfast.contract WHERE {where}")
    return Sql(
        "INSERT INTO holdfast.contract (plane, env, content)"
        f" VALUES ({_literal(plane)}, {_literal(env)}, {_literal(json.dumps(content))}::jsonb)"
        " ON CONFLICT (plane, env) DO UPDATE SET content = excluded.content, updated_at = now()"
    )


def _entry(record: Record) -> dict[str, Any] | None:
    """What the contract says of an object; nothing of most kinds."""
    kind, settings = record.address.kind, record.settings
    if kind == "binding":
        return {"value": settings["value"]}
    if kind in DECLARED:
        return {"target": record.address.target, **settings}
    if kind == "role":
        return {"target": record.address.target, "password": settings.get("password")}
    facts = FACTS.get(kind)
    if facts is None:
        return None
    known = {fact: settings[fact] for fact in facts if settings.get(fact) is not None}
    return {"target": record.address.target, **known}


def _settings(entry: Mapping[str, Any]) -> Settings:
    return {name: value for name, value in entry.items() if name != "target"}


def _of_kind(entries: Mapping[Address, Mapping[str, Any]], kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((a.name, entry) for a, entry in entries.items() if a.kind == kind)


def _templates(entries: Mapping[Address, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for a, entry in entries.items():
        if a.kind == "template":
            found.setdefault(a.names[1], {})[a.name] = entry
    return found


def _roles(entries: Mapping[Address, Mapping[str, Any]]) -> dict[str, Any]:
    """The login roles of pools with the references of their passwords."""
    used = {(entry["target"], entry["role"]) for _, entry in _of_kind(entries, "pool")}
    return {name: entry for name, entry in _of_kind(entries, "role") if (entry["target"], name) in used}


def _literal(text: str) -> str:
    """Quote for SQL; a backslash is plain under standard_conforming_strings, which we pin."""
    return "'" + text.replace("'", "''") + "'"
