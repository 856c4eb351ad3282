"""What the resource classes share: arguments are known by name, options name the version of the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import pulumi
from pulumi import Output, ResourceOptions

from provision import __version__
from provision.pulumi.naming import DOWNLOAD_URL, PACKAGE
from provision.spec.nearest import nearest


class Signature(NamedTuple):
    """What a class takes and has."""

    name: str
    required: frozenset[str]
    known: frozenset[str]
    properties: tuple[str, ...]

    def check(self, arguments: Mapping[str, Any], *, is_complete: bool = True) -> None:
        """Raise TypeError for unknown arguments, and for missing ones where all must be there."""
        for argument in sorted(arguments.keys() - self.known):
            raise TypeError(f"{self.name} has no argument {argument!r}. {nearest(argument, self.known)}".rstrip())
        missing = sorted(argument for argument in self.required if arguments.get(argument) is None)
        if missing and is_complete:
            raise TypeError(f"{self.name} lacks {', '.join(missing)}")


def _signature(cls: type, arguments: Any) -> Signature:
    required: frozenset[str] = arguments.__required_keys__
    return Signature(cls.__name__, required, required | arguments.__optional_keys__, tuple(cls.__annotations__))


class Resource(pulumi.CustomResource):
    """A resource of the package: its arguments are the keys of a TypedDict, its properties what it annotates."""

    address: Output[str]
    plan: Output[list[str]]
    _token: ClassVar[str]
    _signature: ClassVar[Signature]

    def __init_subclass__(cls, *, arguments: Any = None) -> None:
        """Take up a class; one that is made from it in a program remains what it is."""
        super().__init_subclass__()
        if arguments is not None:
            cls._token = f"{PACKAGE}:index:{cls.__name__}"
            cls._signature = _signature(cls, arguments)

    def __init__(self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Any) -> None:
        """Register the resource. Raises TypeError for arguments that are missing or unknown."""
        options = _options(opts)
        is_new = options.id is None and options.urn is None
        self._signature.check(arguments, is_complete=is_new)
        properties = dict.fromkeys(self._signature.properties)
        super().__init__(self._token, resource_name, {**properties, **arguments}, options)

    @classmethod
    def get(cls, resource_name: str, id: pulumi.Input[str], opts: ResourceOptions | None = None) -> Self:
        """Read an object that exists by its id, its address. Nothing is managed by that."""
        return cls(resource_name, ResourceOptions.merge(opts, ResourceOptions(id=id)))


class ProviderResource(pulumi.ProviderResource):
    """The provider of one plane. What is not text crosses to the engine as JSON, secrets as secrets."""

    _signature: ClassVar[Signature]

    def __init_subclass__(cls, *, arguments: Any = None) -> None:
        super().__init_subclass__()
        if arguments is not None:
            cls._signature = _signature(cls, arguments)

    def __init__(self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Any) -> None:
        """Register the provider. Raises TypeError for arguments that are missing or unknown."""
        self._signature.check(arguments)
        given = {name: value for name, value in arguments.items() if value is not None}
        if "secrets" in given:
            given["secrets"] = Output.secret(given["secrets"])
        for name in ("targets", "allow", "secrets"):
            if name in given:
                given[name] = Output.json_dumps(given[name])
        properties = dict.fromkeys(self._signature.properties)
        hidden = ResourceOptions(additional_secret_outputs=["secrets"])
        super().__init__(PACKAGE, resource_name, {**properties, **given}, _options(ResourceOptions.merge(hidden, opts)))


def _options(opts: ResourceOptions | None) -> ResourceOptions:
    ours = ResourceOptions(version=__version__, plugin_download_url=DOWNLOAD_URL)
    return ResourceOptions.merge(ours, opts)
