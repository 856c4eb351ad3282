"""Targets: the servers that a plane lives on, as an environment declares them, and how one connects to them.

All values that are secret are references. What a target does not say is unknown, never guessed: checks that
need such a fact stay silent, and plan compares what is declared with the live server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from provision.spec import kubernetes
from provision.spec.fields import (
    DURATION,
    SECRET,
    SIZE,
    Field,
    FieldError,
    FieldTable,
    Json,
    Type,
    any_of,
    enum,
    integer,
    list_of,
    map_of,
    object_of,
    text,
)
from provision.spec.record import Facts

#: The section's words -> the systems of addresses.
SYSTEMS = {"nats": "nats", "postgres": "pg"}
NAME_PATTERN = "^[A-Za-z][A-Za-z0-9_-]{0,62}$"
#: A server name, an address, a Unix socket folder. No user, no password, no scheme.
_HOST = r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]"
_PLAIN = Type({"type": "string", "minLength": 1})
_PATH = Type({"type": "string", "minLength": 1})


def _either_text_or_secret(inner: Type) -> Type:
    return any_of(inner, SECRET, parse=lambda value: dict(value) if isinstance(value, Mapping) else value)


def _version(value: Any) -> str:
    return value if isinstance(value, str) else str(int(value))


#: ``16``, ``"16.14"``, ``"2.11.3"``. A bare 16.10 is the number 16.1 to YAML, so it is refused.
VERSION = any_of(text(r"^\d+(\.\d+){0,2}$"), integer(1), parse=_version)


def _no_password(value: str) -> str:
    userinfo = re.match(r"^[a-z]+://([^/@]*)@", value)
    if (userinfo and ":" in userinfo[1]) or re.search(r"\bpassword\s*=", value):
        raise FieldError(
            "a password stands in the text of a connection string",
            help="Write the whole string as a reference, {env: NAME}, or password: {env: NAME} beside it.",
        )
    return value


_DSN = _either_text_or_secret(Type({"type": "string", "minLength": 1}, _no_password))
_DSN = Type(_DSN.schema, lambda v: dict(v) if isinstance(v, Mapping) else _no_password(v))


def _urls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return [_no_password(url) for url in ([value] if isinstance(value, str) else value)]


_URL = text(r"^(nats|tls|ws|wss)://\S+$")
_URLS = any_of(_URL, list_of(_URL, min_items=1), SECRET, parse=_urls)


def place_of(value: Any) -> dict[str, Any]:
    """Read ``host:port`` or {host, port}; a reference stays one."""
    if isinstance(value, str):
        host, _, port = value.rpartition(":") if re.search(r":\d+$", value) else (value, "", "5432")
        return {"host": host.strip("[]"), "port": int(port)}
    if set(value) <= {"env", "file"}:
        return dict(value)
    return {"host": value["host"], "port": value.get("port") or 5432}


def _field(name: str, type: Type, doc: str, *, default: Any = None, required: bool = False) -> Field:
    return Field(name=name, type=type, doc=doc, default=default, required=required)


_ENDPOINT_OBJECT = FieldTable(
    _field("host", _PLAIN, "Host name, address, or folder of a Unix socket.", required=True),
    _field("port", integer(1, 65535), "TCP port.", default=5432),
)
#: ``host:port``, {host, port}, or a reference to text of the first form.
ENDPOINT = any_of(text(rf"^({_HOST})(:\d{{1,5}})?$"), object_of(_ENDPOINT_OBJECT), SECRET, parse=place_of)

_NATS_TLS = FieldTable(
    _field("ca", _PATH, "Path of the certificate authority's certificate."),
    _field("cert", _PATH, "Path of the client certificate."),
    _field("key", _either_text_or_secret(_PATH), "Path of the client key, or a reference to that path."),
)
_PG_TLS = FieldTable(
    _field("ca", _either_text_or_secret(_PATH), "Path of the certificate authority's certificate."),
    _field("cert", _PATH, "Path of the client certificate."),
    _field("key", _PATH, "Path of the client key."),
    _field("mode", enum("disable", "prefer", "require", "verify-ca", "verify-full"), "libpq's sslmode."),
)
_LIMITS = FieldTable(
    _field("max_memory", SIZE, "Memory storage of the account."),
    _field("max_storage", SIZE, "File storage of the account."),
    _field("max_streams", integer(-1), "Streams of the account."),
    _field("max_consumers", integer(-1), "Consumers of the account."),
    _field("max_ack_pending", integer(-1), "Largest max_ack_pending of a consumer."),
    _field("max_bytes_required", Type({"type": "boolean"}), "Whether each stream must set max_bytes."),
)


def _tags(value: list[Any]) -> list[Any]:
    return [list(tag) if isinstance(tag, list) else tag for tag in value]


_SYSTEM = FieldTable(
    _field("creds", _either_text_or_secret(_PATH), "Path of a credentials file, or a reference to that path."),
    _field("user", _either_text_or_secret(_PLAIN), "User name."),
    _field("password", SECRET, "Password of the user."),
    _field("nkey", SECRET, "Seed of an NKey."),
)
NATS_TARGET = FieldTable(
    _field("kind", enum("embedded", "external", "kubernetes"), "Who runs the servers.", required=True),
    _field("urls", _URLS, "Where to connect: a URL, a list of them, or a reference."),
    _field("creds", _either_text_or_secret(_PATH), "Path of a credentials file, or a reference to that path."),
    _field("user", _either_text_or_secret(_PLAIN), "User name."),
    _field("password", SECRET, "Password of the user."),
    _field("token", SECRET, "Token."),
    _field("nkey", SECRET, "Seed of an NKey."),
    _field("tls", object_of(_NATS_TLS), "Certificates."),
    _field("system", object_of(_SYSTEM), "A user of the system account; with it plan looks at the servers' tags."),
    _field("servers", integer(1, 1000), "How many servers the cluster has."),
    _field("cluster", _PLAIN, "Name of the cluster."),
    _field(
        "tags",
        any_of(list_of(_PLAIN), list_of(list_of(_PLAIN)), parse=_tags),
        "Server tags: a list that every server has, or one list for each server.",
    ),
    _field("max_payload", SIZE, "Largest message the servers take."),
    _field("max_file_store", SIZE, "File storage of one server."),
    _field("max_memory_store", SIZE, "Memory storage of one server."),
    _field("max_duplicate_window", DURATION, "Largest duplicate_window the account allows."),
    _field("version", VERSION, "Version of the servers."),
    _field("domain", _PLAIN, "JetStream domain."),
    _field("account_limits", object_of(_LIMITS), "JetStream limits of the account."),
    _field("kubernetes", object_of(kubernetes.NATS), "What runs there; for kind kubernetes."),
)
POSTGRES_TARGET = FieldTable(
    _field("kind", enum("embedded", "external", "kubernetes"), "Who runs the server.", required=True),
    _field(
        "form",
        enum("local", "compose", "kubernetes", "cloud"),
        "Shape of the connection: decides host and TLS.",
    ),
    _field("dsn", _DSN, "Connection string, or a reference to one. It must not hold a password as text."),
    _field("host", _PLAIN, "Host of the primary, or folder of its Unix socket."),
    _field("port", integer(1, 65535), "Port of the primary."),
    _field(
        "endpoints",
        map_of(ENDPOINT, key_pattern=NAME_PATTERN),
        "Further names for hosts: primary, replica, …",
    ),
    _field("service", _PLAIN, "Name of the service (compose, kubernetes)."),
    _field("namespace", _PLAIN, "Namespace of the service (kubernetes)."),
    _field("user", _either_text_or_secret(_PLAIN), "Role that plan and apply connect as."),
    _field("password", SECRET, "Its password."),
    _field("database", _PLAIN, "Database of the plane."),
    _field("connect_timeout", DURATION, "How long a connection may take.", default=10_000_000_000),
    _field("max_connections", integer(1), "max_connections of the server."),
    _field("version", VERSION, "Version of the server."),
    _field("extensions", list_of(_PLAIN), "Extensions that can be created there."),
    _field("mode", enum("direct", "pooled"), "Whether a transaction pooler stands in between.", default="direct"),
    _field("tls", object_of(_PG_TLS), "Certificates and sslmode."),
    _field("kubernetes", object_of(kubernetes.POSTGRES), "What runs there; for kind kubernetes."),
)
TABLES = {"nats": NATS_TARGET, "postgres": POSTGRES_TARGET}


class Target(NamedTuple):
    """One server or cluster. ``settings`` are canonical: sizes in bytes, durations in ns, unset ones None."""

    system: str
    name: str
    kind: str
    settings: Mapping[str, Any]

    @property
    def facts(self) -> Facts:
        """What is declared of the target, in the form in which live servers are measured too."""
        known = {k: v for k, v in self.settings.items() if v is not None and k in _FACTS}
        if self.kind == "kubernetes" and self.system == "nats":
            # What is rendered is known: no tags where none are declared.
            known = {"cluster": kubernetes.name_of("nats", self.settings), "tags": [], **known}
        if "extensions" in known:
            known["extensions"] = dict.fromkeys(known["extensions"], "")
        if "tags" in known:
            tags = known["tags"]
            if any(isinstance(tag, list) for tag in tags):
                known["server_tags"] = tags
                known["tags"] = list(dict.fromkeys(tag for server in tags for tag in server))
            else:
                known["server_tags"] = [tags] * (self.settings.get("servers") or 1)
        version = version_tuple(self.settings.get("version"))
        # 2.12 is 2.12.0: a shorter tuple would count as older.
        padded = (*version, 0, 0)[:3] if version else ()
        return Facts(self.system, self.name, padded, known)


_FACTS = frozenset(
    "servers cluster tags max_payload max_file_store max_memory_store max_duplicate_window domain "
    "account_limits max_connections extensions mode".split()
)


def version_tuple(version: str | None) -> tuple[int, ...]:
    """``2.11`` -> (2, 11); nothing -> ()."""
    return tuple(int(part) for part in version.split(".")) if version else ()


def schema() -> Json:
    """The JSON Schema of the ``targets`` section."""
    properties = {
        word: {
            "type": "object",
            "description": f"{label} targets by name; main is the default.",
            "propertyNames": {"pattern": NAME_PATTERN},
            "additionalProperties": TABLES[word].schema(),
        }
        for word, label in (("nats", "NATS"), ("postgres", "PostgreSQL"))
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def parse(node: Mapping[str, Any]) -> Iterator[Target | tuple[tuple[str | int, ...], FieldError]]:
    """Read the section, which has passed the JSON Schema: targets, and the places of refused values."""
    for word, system in SYSTEMS.items():
        for name, settings in (node.get(word) or {}).items():
            try:
                parsed = TABLES[word].parse(settings)
            except FieldError as error:
                yield ("targets", word, name, *error.path), error
            else:
                yield Target(system, name, parsed["kind"], parsed)


class Form(NamedTuple):
    """The shape of a connection: the host where none is given, and libpq's sslmode without a CA."""

    host: str
    sslmode: str


#: A socket or localhost needs no TLS; sslmode=require alone does not authenticate the server, so a
#: certificate authority always means verify-full (https://www.postgresql.org/docs/current/libpq-ssl.html).
FORMS: Mapping[str | None, Form] = {
    "local": Form("localhost", "disable"),
    "compose": Form("{service}", "prefer"),
    "kubernetes": Form("{service}.{namespace}.svc.cluster.local", "require"),
    "cloud": Form("", "require"),
    None: Form("", "prefer"),
}
_SPECIAL, _ESCAPED = re.compile(r"([\s\\])"), r"\\\1"
_TLS = {"mode": "sslmode", "ca": "sslrootcert", "cert": "sslcert", "key": "sslkey"}


class Reach(NamedTuple):
    """How a session gets to a database. ``host`` may be the folder of a socket; ``tls`` is in libpq's words."""

    host: str
    port: int
    tls: Mapping[str, str]
    connect_timeout_s: int


def endpoint(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Give what a target's settings say of an endpoint: host and port, each maybe unset, or a reference to them.

    Raises FieldError for an endpoint nobody declared.
    """
    endpoints = given.get("endpoints") or {}
    if name in endpoints:
        found: Mapping[str, Any] = endpoints[name]
        return found
    if name != "primary":
        known = ", ".join(["primary", *endpoints])
        raise FieldError(f"the target has no endpoint {name}", help=f"It has: {known}.")
    return {"host": given.get("host"), "port": given.get("port")}


def reach(given: Mapping[str, Any], place: Mapping[str, Any]) -> Reach:
    """Read how to get to a place. ``given`` are the target's settings, free of references where they count.

    ``place`` holds host and port, and may hold libpq's words for TLS, which the target's ``tls`` overrides.
    Raises FieldError where no host is known.
    """
    form = FORMS["local" if given.get("kind") == "embedded" else given.get("form")]
    service, namespace = given.get("service") or "postgres", given.get("namespace") or "default"
    host = place.get("host") or form.host.format(service=service, namespace=namespace)
    if not host:
        raise FieldError("the target has no host", help="Give host, endpoints.primary, or a dsn.")
    own = given.get("tls") or {}
    tls = {word: value for key, word in _TLS.items() if (value := own.get(key) or place.get(word))}
    usual = "disable" if host.startswith("/") else "verify-full" if "sslrootcert" in tls else form.sslmode
    timeout_ns = given.get("connect_timeout") or 10_000_000_000
    return Reach(host, int(place.get("port") or 5432), {"sslmode": usual, **tls}, max(1, timeout_ns // 1_000_000_000))


def postgres_url(
    target: Target,
    *,
    endpoint: str = "primary",
    user: str | None = None,
    password: str | None = None,
    database: str | None = None,
    application_name: str = "holdfast",
    settings: Mapping[str, str] | None = None,
) -> str:
    """Build the libpq URI of a target that is given by host, not by dsn. Pure: secrets come in resolved.

    Every part is percent-encoded. ``settings`` are server settings for the session. Raises FieldError for an
    endpoint nobody declared, or one that is a reference.
    """
    given = target.settings
    place = _declared_place(given, endpoint)
    found = reach(given, place)
    query = {"application_name": application_name, **found.tls, "connect_timeout": str(found.connect_timeout_s)}
    if settings:
        query["options"] = start_options(settings)
    authority = ""
    if user:
        authority = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "") + "@"
    if found.host.startswith("/"):
        query = {"host": found.host, "port": str(found.port), **query}
    else:
        authority += (
            f"[{found.host}]:{found.port}" if ":" in found.host else f"{quote(found.host, safe='')}:{found.port}"
        )
    pairs = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
    return f"postgresql://{authority}/{quote(database or given.get('database') or '', safe='')}?{pairs}"


def _declared_place(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    place = endpoint(given, name)
    if "host" not in place:
        raise FieldError(f"endpoint {name} is a reference", help="Resolve it before building a URL.")
    return place


def start_options(settings: Mapping[str, str]) -> str:
    """Write server settings as libpq's ``options``: it has no keys for them, and spaces part the arguments."""
    return " ".join(f"-c {name}={_SPECIAL.sub(_ESCAPED, value)}" for name, value in settings.items())
