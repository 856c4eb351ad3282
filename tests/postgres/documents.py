"""Documents of a database's sections: read to records, and varied."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from provision.postgres.kinds import extension, grant, role, schema
from provision.postgres.linking import link
from provision.spec.record import Plane, Pointer
from tests.complaints import Complaints

SECTIONS = (role.SECTION, extension.SECTION, schema.SECTION, grant.SECTION)


def read(spec: Mapping[str, Any]) -> tuple[Plane, list[tuple[Pointer, str]]]:
    """The records of a document, and what was wrong with it."""
    complaints = Complaints()
    records = [r for s in SECTIONS if s.name in spec for r in s.read(spec[s.name], complaints)]
    return Plane(link(records), name="agents", env="test"), complaints.found


def desired(spec: Mapping[str, Any]) -> Plane:
    """The records of a document that has nothing wrong with it."""
    plane, complaints = read(spec)
    assert complaints == []
    return plane


def changed(spec: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The spec with another value at a dotted path; None removes the key."""
    result = deepcopy(dict(spec))
    node: Any = result
    *above, last = path.split(".")
    for part in above:
        node = node.setdefault(part, {})
    if value is None:
        del node[last]
    else:
        node[last] = value
    return result
