"""The resource provider of Pulumi: a codec, a gRPC server and the behaviour behind it, thin over reconcile.

Programs take ``Plane`` and the typed resources from here; they load when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provision.pulumi.plane import Plane
    from provision.pulumi.resources import (
        Consumer,
        Contract,
        KeyValueBucket,
        ObjectStore,
        PartitionSet,
        Pool,
        PostgresDatabase,
        Provider,
        Role,
        Stream,
    )

__all__ = [
    "Consumer",
    "Contract",
    "KeyValueBucket",
    "ObjectStore",
    "PartitionSet",
    "Plane",
    "Pool",
    "PostgresDatabase",
    "Provider",
    "Role",
    "Stream",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{'plane' if name == 'Plane' else 'resources'}"), name)
