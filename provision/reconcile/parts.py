"""A plane in parts that live on their own: one stream, one role, one whole database. Pure.

A front end that keeps a state object by object (``pulumi``) works with these. A part's inputs are the spec node of
its object, with the names that place it; reading them gives the records that the whole document would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from provision.pools import contract
from provision.spec.errors import InputError, OperationError
from provision.spec.ident import Address
from provision.spec.record import Plane, Pointer, Record

Inputs = Mapping[str, Any]
Root = dict[str, Any]
Owns = Callable[[Record], bool]
#: Where a range's partitions roll on, their policy is a part of its own; the table keeps these.
LAYOUT = ("by", "key")
#: The input that a refresh adds for differences which no other input can show.
DRIFT = "drift"
#: What a table's inputs say besides its spec: in which order a new table gets its columns.
COLUMN_ORDER = "column_order"
#: A policy that reading accepts in place of the one that stands elsewhere.
_ANY_POLICY = {"every": "1 day"}
_ANY_LAYOUT = {"by": "range", "key": ["?"]}


class Part(NamedTuple):
    """One part of a plane: the name of its type, a name among its kin, and its inputs."""

    type: str
    name: str
    inputs: Inputs


class PartType:
    """How parts of one type stand in a document, and which records belong to them."""

    #: The word of the type: ``Stream``.
    name = ""
    #: Inputs that say which object it is.
    identity: tuple[str, ...] = ("name", "target")
    #: Those of them that make it another object; unset, all do.
    fixed: tuple[str, ...] | None = None
    #: Inputs that another part tells too: left out they say nothing.
    borrowed: tuple[str, ...] = ()
    #: Whether inputs alone can show what a change puts at stake.
    is_weighed = True
    #: Whether there may be expressions to compile. A policy has none of its own: its layout is its table's.
    has_expressions = True
    #: Whether anything on a server goes with it.
    is_removable = True
    #: Whether it lives in the contract, so that no server holds it.
    is_declared = False

    def id(self, inputs: Inputs) -> str:
        """The address of the object, as plans and the ledger write it."""
        raise NotImplementedError

    def from_id(self, id: str) -> dict[str, Any]:
        """The inputs that place an object. Raises InputError for text that is no such address."""
        raise NotImplementedError

    def root(self, inputs: Inputs) -> Root:
        """The document that declares this part and nothing else."""
        raise NotImplementedError

    def inward(self, inputs: Inputs) -> Pointer:
        """Where the inputs stand in that document."""
        raise NotImplementedError

    def owns(self, inputs: Inputs) -> Owns:
        """Which records belong to the part."""
        raise NotImplementedError

    def primary(self, inputs: Inputs) -> Address | None:
        """The record without which the part is not there; None where any record will do."""
        raise NotImplementedError

    def records(self, records: Iterator[Record], inputs: Inputs) -> Iterator[Record]:
        """The part's own records among those that its document gave."""
        return filter(self.owns(inputs), records)

    def completed(self, records: Iterable[Record], live: Plane) -> tuple[Record, ...]:
        """The part's records with what only the servers know. Raises TableMissing."""
        return tuple(records)

    def is_ours(self, inputs: Inputs) -> bool:
        """Whether a plan may change it at all; what it does not say inside is the plan's to know."""
        return True

    def server(self, inputs: Inputs) -> tuple[str, str] | None:
        """The target that the part needs, as (system, name)."""
        system, target, _ = _split(self.id(inputs))
        return system, target

    def place(self, inputs: Inputs, pointer: Pointer) -> Pointer:
        """From a place in the document to one in the inputs; the whole part for what lies outside."""
        above = self.inward(inputs)
        return pointer[len(above) :] if pointer[: len(above)] == above else ()


def target_of(inputs: Inputs) -> str:
    return str(inputs.get("target") or "main")


def _node(inputs: Inputs, *without: str) -> dict[str, Any]:
    return {k: v for k, v in inputs.items() if k not in without}


class Named(PartType):
    """An object of a top-level section, with the kinds below it that belong to it."""

    def __init__(self, name: str, system: str, section: str, kind: str, inner: frozenset[str] = frozenset()) -> None:
        self.name = name
        self.system = system
        self.section = section
        self.kind = kind
        self.inner = inner

    def address(self, inputs: Inputs) -> Address:
        return Address.root(self.system, target_of(inputs), self.kind, str(inputs.get("name")))

    def id(self, inputs: Inputs) -> str:
        return str(self.address(inputs))

    def from_id(self, id: str) -> dict[str, Any]:
        system, target, words = _split(id)
        if system != self.system or len(words) != 2 or words[0] != self.kind:
            raise _no_id(id, self.name, f"{self.system}:main/{self.kind}/NAME")
        return placed({"name": words[1]}, target)

    def root(self, inputs: Inputs) -> Root:
        return {self.section: {str(inputs.get("name")): _node(inputs, "name")}}

    def inward(self, inputs: Inputs) -> Pointer:
        return (self.section, str(inputs.get("name")))

    def owns(self, inputs: Inputs) -> Owns:
        mine = self.address(inputs)
        return lambda r: r.address == mine or (r.address.kind in self.inner and r.address.within(mine))

    def primary(self, inputs: Inputs) -> Address:
        return self.address(inputs)


class Pool(Named):
    """A connection pool."""

    is_weighed = False
    is_removable = False
    is_declared = True

    def server(self, inputs: Inputs) -> tuple[str, str]:
        return "pg", target_of(inputs)


class Consumer(PartType):
    """A durable consumer of a stream."""

    name = "Consumer"
    identity = ("name", "stream", "target")

    def address(self, inputs: Inputs) -> Address:
        stream = Address.root("nats", target_of(inputs), "stream", str(inputs.get("stream")))
        return stream.child("consumer", str(inputs.get("name")))

    def id(self, inputs: Inputs) -> str:
        return str(self.address(inputs))

    def from_id(self, id: str) -> dict[str, Any]:
        system, target, words = _split(id)
        if system != "nats" or len(words) != 4 or (words[0], words[2]) != ("stream", "consumer"):
            raise _no_id(id, self.name, "nats:main/stream/STREAM/consumer/NAME")
        return placed({"name": words[3], "stream": words[1]}, target)

    def root(self, inputs: Inputs) -> Root:
        stream: dict[str, Any] = {"consumers": {str(inputs.get("name")): _node(inputs, "name", "stream", "target")}}
        return {"streams": {str(inputs.get("stream")): placed(stream, target_of(inputs))}}

    def inward(self, inputs: Inputs) -> Pointer:
        return ("streams", str(inputs.get("stream")), "consumers", str(inputs.get("name")))

    def owns(self, inputs: Inputs) -> Owns:
        mine = self.address(inputs)
        return lambda r: r.address == mine

    def primary(self, inputs: Inputs) -> Address:
        return self.address(inputs)


class Database(PartType):
    """Everything in one database but its roles and the policies of rolling partitions."""

    name = "PostgresDatabase"
    identity = ("target",)
    #: The sections that it is made of; in each, a node may name its target.
    sections = ("schemas", "extensions", "grants")

    def id(self, inputs: Inputs) -> str:
        return f"pg:{target_of(inputs)}"

    def from_id(self, id: str) -> dict[str, Any]:
        system, _, target = id.partition(":")
        if system != "pg" or not target or "/" in target:
            raise _no_id(id, self.name, "pg:main")
        return placed({}, target)

    def root(self, inputs: Inputs) -> Root:
        target = target_of(inputs)
        found: Root = {}
        for section in self.sections:
            nodes = inputs.get(section)
            if isinstance(nodes, Mapping):
                found[section] = {name: self._told(node, target) for name, node in nodes.items()}
            elif nodes:
                found[section] = [self._told(node, target) for node in nodes]
        for schema in (found.get("schemas") or {}).values():
            _each_table(schema, lambda table: _ordered(_with_policy(table)))
        return found

    def inward(self, inputs: Inputs) -> Pointer:
        return ()

    def owns(self, inputs: Inputs) -> Owns:
        place = ("pg", target_of(inputs))
        return lambda r: r.address[:2] == place and r.address.kind not in _PEOPLE and not is_rolling(r)

    def primary(self, inputs: Inputs) -> None:
        return None

    def records(self, records: Iterator[Record], inputs: Inputs) -> Iterator[Record]:
        place = ("pg", target_of(inputs))
        for record in records:
            if record.address[:2] == place and record.address.kind not in _PEOPLE:
                yield _laid_out(record) if is_rolling(record) else record

    def completed(self, records: Iterable[Record], live: Plane) -> tuple[Record, ...]:
        """Sets that roll on are followed as they are laid out: their policies are parts of their own."""
        return tuple(r for r in records if not (is_rolling(r) and _is_laid_out(r, live)))

    @staticmethod
    def _told(node: Any, target: str) -> Any:
        """A copy that may be changed, with the target that the part names."""
        if not isinstance(node, Mapping):
            return node if target == "main" else {"target": target}
        return placed(dict(node), target)


class PartitionSet(PartType):
    """The policy of a table whose range partitions roll on with time."""

    name = "PartitionSet"
    identity = ("schema", "table", "target")
    # A policy is no object of the server: at another table it is the same policy, elsewhere.
    fixed = ("target",)
    borrowed = LAYOUT
    # Lowering a policy needs its table; and without the policy the partitions stay, they are the table's.
    is_weighed = False
    is_removable = False
    has_expressions = False

    def address(self, inputs: Inputs) -> Address:
        schema = Address.root("pg", target_of(inputs), "schema", str(inputs.get("schema")), bare=True)
        return schema.child("table", str(inputs.get("table")), bare=True).child("partitions", "set")

    def id(self, inputs: Inputs) -> str:
        return str(self.address(inputs))

    def from_id(self, id: str) -> dict[str, Any]:
        system, target, words = _split(id)
        if system != "pg" or len(words) != 4 or words[2:] != ("partitions", "set"):
            raise _no_id(id, self.name, "pg:main/SCHEMA/TABLE/partitions/set")
        return placed({"schema": words[0], "table": words[1]}, target)

    def root(self, inputs: Inputs) -> Root:
        node = {**_ANY_LAYOUT, **_node(inputs, *self.identity, "managed")}
        schema: dict[str, Any] = {"tables": {str(inputs.get("table")): {"columns": {}, "partitions": node}}}
        return {"schemas": {str(inputs.get("schema")): placed(schema, target_of(inputs))}}

    def inward(self, inputs: Inputs) -> Pointer:
        return ("schemas", str(inputs.get("schema")), "tables", str(inputs.get("table")), "partitions")

    def owns(self, inputs: Inputs) -> Owns:
        mine = self.address(inputs)
        return lambda r: r.address == mine

    def primary(self, inputs: Inputs) -> Address:
        return self.address(inputs)

    def is_ours(self, inputs: Inputs) -> bool:
        return inputs.get("managed") != "migrations"

    def completed(self, records: Iterable[Record], live: Plane) -> tuple[Record, ...]:
        """The layout is the table's. Raises TableMissing."""
        return tuple(_followed(r, live) for r in records)


class Contract(PartType):
    """What the runtime is told: the shares of all other parts, and what lives in the contract alone."""

    name = "Contract"
    identity = ()
    is_weighed = False

    def id(self, inputs: Inputs) -> str:
        return "plane:main/contract"

    def from_id(self, id: str) -> dict[str, Any]:
        return {}

    def root(self, inputs: Inputs) -> Root:
        found = {s: inputs[s] for s in ("publishers", "runtime") if inputs.get(s) is not None}
        templates = inputs.get("templates") or {}
        if templates:
            found["streams"] = {stream: dict(node) for stream, node in templates.items()}
        return found

    def inward(self, inputs: Inputs) -> Pointer:
        return ()

    def owns(self, inputs: Inputs) -> Owns:
        return lambda r: r.address.kind == "contract" or r.address.kind in contract.DECLARED

    def primary(self, inputs: Inputs) -> None:
        return None

    def records(self, records: Iterator[Record], inputs: Inputs) -> Iterator[Record]:
        return (r for r in records if r.address.kind in contract.DECLARED)

    def server(self, inputs: Inputs) -> None:
        return None

    def place(self, inputs: Inputs, pointer: Pointer) -> Pointer:
        return ("templates", *pointer[1:]) if pointer[:1] == ("streams",) else pointer


class TableMissing(OperationError):
    """A partition set comes before its table: in a preview of a new database that is how it must be."""


_PEOPLE = frozenset({"role", "membership"})
CONTRACT = Contract()
TYPES: Mapping[str, PartType] = {
    t.name: t
    for t in (
        Named("Stream", "nats", "streams", "stream"),
        Named("KeyValueBucket", "nats", "buckets", "bucket"),
        Named("ObjectStore", "nats", "object_stores", "object_store"),
        Consumer(),
        Database(),
        PartitionSet(),
        Named("Role", "pg", "roles", "role", frozenset({"membership"})),
        Pool("Pool", "plane", "pools", "pool"),
        CONTRACT,
    )
}


def owner(record: Record) -> str:
    """The id of the part that a record belongs to."""
    a = record.address
    if a.system == "pg" and not is_rolling(record):
        return f"pg:{a.target}" if a.kind not in _PEOPLE else str(a._replace(path=a.path[:2]))
    if a.kind in ("contract", "binding", "publisher", "template"):
        return CONTRACT.id({})
    return str(a)


def is_rolling(record: Record) -> bool:
    """Whether a record is a partition set that grows with time or numbers."""
    return record.address.kind == "partitions" and record.settings["by"] == "range"


def _laid_out(record: Record) -> Record:
    """The set as CREATE TABLE needs it: no policy, hence no partitions."""
    silent = {"every": None, "retain": None, "default": None, "start": None}
    return record._replace(settings={**record.settings, **silent})


def _is_laid_out(record: Record, live: Plane) -> bool:
    found = live.get(record.address)
    return found is not None and all(found.settings[k] == record.settings[k] for k in LAYOUT)


def _followed(record: Record, live: Plane) -> Record:
    found = live.get(record.address)
    if found is None:
        raise TableMissing(f"{record.parent} is not there, or not partitioned by range",
                           "Let the PartitionSet depend on the database that holds its table.")  # fmt: skip
    layout = {name: found.settings[name] for name in (*LAYOUT, "key_type")}
    return record._replace(settings={**record.settings, **layout})


def rolls(node: Any) -> bool:
    return isinstance(node, Mapping) and node.get("by") == "range"


def _each_table(schema: Any, change: Callable[[Mapping[str, Any]], Any]) -> None:
    """Change every table of a schema node, which is ours to change at its first level."""
    if isinstance(schema, dict) and isinstance(schema.get("tables"), Mapping):
        tables = schema["tables"].items()
        schema["tables"] = {name: change(table) if isinstance(table, Mapping) else table for name, table in tables}


def _with_policy(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table with any policy where its own is another part's."""
    node: Any = table.get("partitions")
    return {**table, "partitions": {**_ANY_POLICY, **node}} if rolls(node) else table


def _ordered(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table with its columns in their order, which mappings lose on their way through an engine."""
    columns = table.get("columns")
    order = table.get(COLUMN_ORDER)
    rest = {k: v for k, v in table.items() if k != COLUMN_ORDER}
    if isinstance(columns, Mapping) and isinstance(order, list):
        names = dict.fromkeys([*(name for name in order if name in columns), *columns])
        rest["columns"] = {name: columns[name] for name in names}
    return rest


def placed(node: dict[str, Any], target: str) -> dict[str, Any]:
    return node if target == "main" else {**node, "target": target}


def _split(id: str) -> tuple[str, str, tuple[str, ...]]:
    system, _, rest = id.partition(":")
    target, *words = rest.split("/")
    return system, target, Address(system, target, "", tuple(words)).names


def _no_id(id: str, type: str, form: str) -> InputError:
    return InputError(f"{id} is not the id of a {type}", f"Its id is its address: {form}")
