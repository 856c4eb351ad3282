"""The contract of a plane: what provisioning wrote about it for us (``contract.schema.json``).

Any contract of our major version is read; keys that we do not know are ignored. Durations become seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from holdfast.errors import ConfigurationError, ConnectionFailed, ContractMismatch, OperationTimeout

if TYPE_CHECKING:
    from nats.aio.client import Client

#: The version that this library reads; of a stored contract only the first number counts.
CONTRACT_VERSION: Final = "1.0"
#: The bucket that holds contracts.
BUCKET: Final = "HOLDFAST"
_NS: Final = 1_000_000_000
_APPLY: Final = "run: holdfast apply"

#: How to get a secret: {"env": name of a variable} or {"file": path}.
Reference = Mapping[str, str]
PoolMode = Literal["session", "transaction", "statement"]
T = TypeVar("T")


class _Name:
    """A name that a plane may leave out; who needs it then learns what to declare."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, names: None, owner: type) -> _Name: ...
    @overload
    def __get__(self, names: Names, owner: type) -> str: ...
    def __get__(self, names: Names | None, owner: type) -> str | _Name:
        if names is None:
            return self
        found = names.given.get(self._name)
        if found is None:
            raise ConfigurationError(f"the plane declares no {self._name}: set runtime.{self._name} in its specs")
        return found


@dataclass(frozen=True)
class Names:
    """The plane's name for each object of the library. Raises ConfigurationError for one that it does not declare.

    Tables and functions are schema-qualified. ``in`` tells whether a name is declared.
    """

    given: Mapping[str, str]

    state_bucket = _Name()
    session_bucket = _Name()
    config_bucket = _Name()
    cache_bucket = _Name()
    flush_stream = _Name()
    flush_consumer = _Name()
    state_stream = _Name()
    task_stream = _Name()
    message_stream = _Name()
    dead_letter_stream = _Name()
    registry_table = _Name()
    state_table = _Name()
    checkpoint_table = _Name()
    lifecycle_table = _Name()
    task_table = _Name()
    message_table = _Name()
    session_table = _Name()
    fact_table = _Name()
    embedding_table = _Name()
    outbox_table = _Name()
    inbox_table = _Name()
    saga_table = _Name()
    saga_step_table = _Name()
    decision_table = _Name()
    hydrate_function = _Name()
    cleanup_function = _Name()
    wake_channel = _Name()

    def __contains__(self, name: object) -> bool:
        return name in self.given


@dataclass(frozen=True)
class Limits:
    """How patient the library is. Times in seconds; the defaults are those of ``holdfast apply``."""

    flush_dirty_keys: int = 50
    flush_interval: float = 0.1
    consistency_window: float = 0.2
    lease_ttl: float = 30.0
    outbox_poll_interval: float = 0.02
    jetstream_max_connections: int = 5
    jetstream_connect_timeout: float = 10.0
    saga_timeout: float = 300.0
    compensation_timeout: float = 120.0
    max_attempts: int = 3


@dataclass(frozen=True)
class PoolSpec:
    """One declared pool. Times in seconds, 0 for none; ``database`` None is the target's."""

    name: str
    target: str
    role: str
    endpoint: str = "primary"
    database: str | None = None
    min: int = 2
    max: int = 10
    acquire_timeout: float = 30.0
    idle_timeout: float = 600.0
    max_lifetime: float = 7200.0
    statement_timeout: float = 30.0
    idle_in_transaction_timeout: float = 60.0
    slow_query_threshold: float = 0.1
    application_name: str = "agent_system"
    statement_cache_capacity: int = 100
    recycling: Literal["fast", "verified", "clean"] = "fast"
    test_before_acquire: bool = True
    leak_detection: bool = True
    after_connect: tuple[str, ...] = ()
    mode: PoolMode = "session"
    pgbouncer: bool = False

    @property
    def is_pooled(self) -> bool:
        """Whether two statements may meet two server sessions: nothing may then be left in a session."""
        return self.mode != "session"


@dataclass(frozen=True)
class BucketSpec:
    """One key-value bucket. ``ttl_s`` 0 keeps for ever; ``max_bytes`` -1 has no bound."""

    name: str
    target: str = "main"
    ttl_s: float = 0.0
    history: int = 1
    max_bytes: int = -1
    max_value_size: int = -1
    journal: str | None = None
    allow_msg_ttl: bool = False
    allow_direct: bool = False


@dataclass(frozen=True)
class StreamSpec:
    """One stream. Times in seconds, 0 for ever; sizes in bytes and messages, -1 without bound."""

    name: str
    target: str = "main"
    subjects: tuple[str, ...] = ()
    max_age_s: float = 0.0
    duplicate_window_s: float = 0.0
    max_bytes: int = -1
    max_msgs: int = -1
    max_msg_size: int = -1


@dataclass(frozen=True)
class RoleSpec:
    """A login role of pools and where its password is."""

    name: str
    target: str
    password: Reference | None


@dataclass(frozen=True)
class PublisherSpec:
    """Subjects that a part of the application publishes to."""

    name: str
    target: str
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class Contract:
    """What a plane offers in one environment. ``targets`` holds system -> target -> how to connect, raw."""

    version: str
    plane: str
    env: str
    digest: str
    names: Names
    limits: Limits
    pools: Mapping[str, PoolSpec]
    buckets: Mapping[str, BucketSpec]
    streams: Mapping[str, StreamSpec]
    roles: Mapping[str, RoleSpec]
    publishers: Mapping[str, PublisherSpec]
    targets: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @classmethod
    def parse(cls, text: str | bytes) -> Contract:
        """Read a stored contract. Raises ContractMismatch for another major version, or what is no contract."""
        try:
            content = json.loads(text)
        except ValueError:
            raise ContractMismatch(f"the stored contract is not JSON; {_APPLY}") from None
        return cls.of(content)

    @classmethod
    def of(cls, content: object) -> Contract:
        """Read a contract that is JSON already. Raises ContractMismatch."""
        if not isinstance(content, Mapping) or not isinstance(content.get("contract_version"), str):
            raise ContractMismatch(f"the stored contract says no contract_version; {_APPLY}")
        version: str = content["contract_version"]
        if version.partition(".")[0] != CONTRACT_VERSION.partition(".")[0]:
            raise ContractMismatch(
                f"the plane's contract has version {version}, and this library reads {CONTRACT_VERSION}:"
                " install the matching release of holdfast, or apply with the matching command"
            )
        try:
            return cls._read(version, content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ContractMismatch(f"the stored contract of version {version} cannot be read: {reason}") from None

    @classmethod
    def _read(cls, version: str, content: Mapping[str, Any]) -> Contract:
        return cls(
            version=version,
            plane=str(content["plane"]),
            env=str(content["env"]),
            digest=str(content["digest"]),
            names=Names(MappingProxyType({name: str(value) for name, value in content["names"].items()})),
            limits=_limits(content["limits"]),
            pools=_each(content["pools"], PoolSpec),
            buckets=_each(content["buckets"], BucketSpec, {"ttl": "ttl_s"}),
            streams=_each(
                content["streams"], StreamSpec, {"max_age": "max_age_s", "duplicate_window": "duplicate_window_s"}
            ),
            roles=_each(content["roles"], RoleSpec),
            publishers=_each(content["publishers"], PublisherSpec),
            targets=MappingProxyType({s: MappingProxyType(dict(named)) for s, named in content["targets"].items()}),
        )

    def bucket(self, name: str) -> BucketSpec:
        """The bucket of that name. Raises ConfigurationError."""
        return _known(self.buckets, "bucket", name)

    def pool(self, name: str) -> PoolSpec:
        """The pool of that name. Raises ConfigurationError."""
        return _known(self.pools, "pool", name)

    def stream(self, name: str) -> StreamSpec:
        """The stream of that name. Raises ConfigurationError."""
        return _known(self.streams, "stream", name)


def _known(found: Mapping[str, T], kind: str, name: str) -> T:
    if name not in found:
        raise ConfigurationError(f"the plane declares no {kind} {name}; it has {', '.join(found) or 'none'}")
    return found[name]


def _limits(given: Mapping[str, Any]) -> Limits:
    return Limits(**{f.name: _value(f.type, given[f.name]) for f in fields(Limits) if f.name in given})


def _each(entries: Mapping[str, Any], form: type[T], renamed: Mapping[str, str] | None = None) -> Mapping[str, T]:
    """Read objects by name; what is null or unknown is left to the defaults of ``form``."""
    types = {f.name: f.type for f in fields(form)}  # type: ignore[arg-type]
    found = {}
    for name, entry in entries.items():
        given = {(renamed or {}).get(key, key): value for key, value in entry.items() if value is not None}
        known = {key: _value(types[key], value) for key, value in given.items() if key in types}
        if form is RoleSpec:
            known.setdefault("password", None)
        found[name] = form(**{**known, "name": name})
    return MappingProxyType(found)


def _value(annotation: object, value: Any) -> Any:
    """Bring a JSON value to the type of its field: nanoseconds to seconds, lists to tuples."""
    if annotation == "float":
        return _number(value) / _NS
    if annotation == "int":
        return _number(value)
    if annotation == "bool" and not isinstance(value, bool):
        raise TypeError(f"{value!r} is no truth value")
    return tuple(value) if isinstance(value, list) else value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


async def fetch_contract(nc: Client, plane: str, env: str, *, timeout_s: float = 5.0) -> Contract:
    """Read the contract of a plane from its NATS servers, from the leader of the bucket.

    Raises ContractMismatch where there is none or it cannot be read, ConnectionFailed, OperationTimeout.
    """
    import asyncio

    import nats.errors
    from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

    key = f"contract.{plane}.{env}"
    try:
        async with asyncio.timeout(timeout_s):
            message = await nc.jetstream(timeout=timeout_s).get_last_msg(
                f"KV_{BUCKET}", f"$KV.{BUCKET}.{key}", direct=False
            )
    except NotFoundError:
        raise ContractMismatch(_absent(plane, env)) from None
    except (TimeoutError, nats.errors.TimeoutError) as error:
        raise OperationTimeout(f"no answer about the contract within {timeout_s:g} s", driver_error=error) from None
    except nats.errors.NoRespondersError as error:
        raise ConfigurationError("the NATS servers have no JetStream for this account", driver_error=error) from None
    except APIError as error:
        if isinstance(error, ServiceUnavailableError) and not error.err_code:  # nobody listens to JetStream's requests
            text = "JetStream does not answer: it is off on the NATS servers or for this account, or it starts"
            raise ConnectionFailed(text, driver_error=error) from None
        text = f"JetStream refused to give the contract (error {error.err_code or error.code})"
        raise ConnectionFailed(text, driver_error=error) from None
    except (nats.errors.Error, OSError) as error:
        raise ConnectionFailed("the connection to NATS failed", driver_error=error) from None
    operation = (message.headers or {}).get("KV-Operation")
    if operation or not message.data:
        raise ContractMismatch(_absent(plane, env))
    return Contract.parse(message.data)


def _absent(plane: str, env: str) -> str:
    return (
        f"there is no contract of plane {plane} in environment {env}: run: holdfast apply --env {env},"
        " or correct HOLDFAST_PLANE, HOLDFAST_ENV or NATS_SERVERS"
    )
