"""The one grain of the product: a record for each addressable object, and the Plane that holds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from provision.spec.ident import Address

#: Settings are plain JSON values (None, bool, int, float, str, list, dict), canonical, compared by ``==``.
Settings = dict[str, Any]
#: Keys from the root of the merged document to a node, e.g. ("streams", "TASKS", "max_age").
Pointer = tuple[str | int, ...]


class Record(NamedTuple):
    """One object, desired or live. Treat it and everything in it as immutable.

    ``settings`` holds every modelled option under its spec name, defaults filled in.
    ``refs`` are the objects that must exist before this one and outlive it; ``rigid`` the subset that
    cannot even be altered while this object stands (a view and the columns it reads).
    ``origin`` points into the merged document and is never compared.
    """

    address: Address
    settings: Settings
    parent: Address | None = None
    refs: tuple[Address, ...] = ()
    rigid: tuple[Address, ...] = ()
    origin: Pointer | None = None
    renamed_from: Address | None = None


class Facts(NamedTuple):
    """What is known of one target, declared or measured.

    ``version`` is (major, minor, patch) of the server; ``options`` holds facts by name, among them for
    NATS: servers, cluster, tags, max_payload, max_file_store, max_memory_store, api_level; for Postgres:
    max_connections, extensions (name -> version), superuser, encoding.
    """

    system: str
    target: str
    version: tuple[int, ...]
    options: Mapping[str, Any]


class Plane:
    """An immutable set of records with its indexes by address and by parent."""

    def __init__(self, records: Iterable[Record], *, name: str = "", env: str = "") -> None:
        self.name = name
        self.env = env
        self.records: dict[Address, Record] = {r.address: r for r in records}
        self._children: dict[Address, list[Record]] | None = None

    def get(self, address: Address) -> Record | None:
        return self.records.get(address)

    def __getitem__(self, address: Address) -> Record:
        return self.records[address]

    def __contains__(self, address: Address) -> bool:
        return address in self.records

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records.values())

    def __len__(self) -> int:
        return len(self.records)

    def children(self, address: Address, kind: str | None = None) -> list[Record]:
        """The direct children of a record in declaration order, all or of one kind."""
        if self._children is None:
            index: dict[Address, list[Record]] = defaultdict(list)
            for record in self.records.values():
                if record.parent is not None:
                    index[record.parent].append(record)
            self._children = index
        found = self._children.get(address, [])
        return found if kind is None else [r for r in found if r.address.kind == kind]

    def of_kind(self, *kinds: str) -> list[Record]:
        """All records of the named kinds, in declaration order."""
        return [r for r in self.records.values() if r.address.kind in kinds]
