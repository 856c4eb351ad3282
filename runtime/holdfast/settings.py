"""Settings from the environment, laid over the contract; and connection strings in the four forms.

A variable that is set wins over the contract, except that a pool's own database wins over ``PG_DATABASE`` and that
nothing here changes a bucket: ``disagreements`` tells where ``NATS_KV_*`` says otherwise than the plane.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from holdfast.contract import Contract, PoolSpec, Reference
from holdfast.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

#: Where neither the environment nor the contract says anything.
DEFAULT_NATS: Final = "nats://localhost:4222"
DEFAULT_HOST, DEFAULT_PORT, DEFAULT_DATABASE, DEFAULT_USER = "localhost", 5432, "agent_system", "postgres"
DEFAULT_SOCKET: Final = "/var/run/postgresql"
DEFAULT_CONNECT_S: Final = 10
_NS: Final = 1_000_000_000
_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
                 "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip
_TRUTH: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


@dataclass(frozen=True)
class Settings:
    """What the environment says; None where it is silent. Times in seconds, sizes in bytes."""

    plane: str | None = None
    env: str = "dev"
    nats_servers: tuple[str, ...] | None = None
    nats_creds_file: str | None = None
    nats_tls_cert: str | None = None
    nats_tls_key: str | None = None
    nats_ca_cert: str | None = None
    nats_kv_prefix: str | None = None
    nats_kv_ttl_s: float | None = None
    nats_kv_replicas: int | None = None
    nats_kv_max_size: int | None = None
    nats_kv_compression: bool | None = None
    pg_hosts: tuple[str, ...] | None = None
    pg_ports: tuple[int, ...] | None = None
    pg_database: str | None = None
    pg_user: str | None = None
    pg_password: str | None = field(default=None, repr=False)
    pg_app_name: str | None = None
    pg_socket_path: str | None = None
    pg_use_socket: bool = False
    pg_ssl_root_cert: str | None = None
    pg_connect_timeout_s: int | None = None
    pg_statement_timeout_s: int | None = None
    pg_max_connections: int | None = None
    pg_min_connections: int | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the variables, those of this process unless others are given. An empty one counts as not set.

        Raises ConfigurationError, which names the variable.
        """
        environ = MappingProxyType(dict(os.environ if environ is None else environ))
        read = _Reader(environ)
        minutes = read("NATS_KV_TTL_MINUTES", int)
        return cls(
            plane=read("HOLDFAST_PLANE", str),
            env=read("HOLDFAST_ENV", str) or "dev",
            nats_servers=read("NATS_SERVERS", _list),
            nats_creds_file=read("NATS_CREDS_FILE", str),
            nats_tls_cert=read("NATS_TLS_CERT", str),
            nats_tls_key=read("NATS_TLS_KEY", str),
            nats_ca_cert=read("NATS_CA_CERT", str),
            nats_kv_prefix=read("NATS_KV_PREFIX", str),
            nats_kv_ttl_s=None if minutes is None else minutes * 60.0,
            nats_kv_replicas=read("NATS_KV_REPLICAS", _positive),
            nats_kv_max_size=read("NATS_KV_MAX_SIZE", size),
            nats_kv_compression=read("NATS_KV_COMPRESSION", _truth),
            pg_hosts=read("PG_HOST", _list),
            pg_ports=read("PG_PORT", lambda text: tuple(_port(part) for part in _list(text))),
            pg_database=read("PG_DATABASE", str),
            pg_user=read("PG_USER", str),
            pg_password=read("PG_PASSWORD", str),
            pg_app_name=read("PG_APP_NAME", str),
            pg_socket_path=read("PG_SOCKET_PATH", str),
            pg_use_socket=bool(read("PG_USE_SOCKET", _truth)),
            pg_ssl_root_cert=read("PG_SSL_ROOT_CERT", str),
            pg_connect_timeout_s=read("PG_CONNECT_TIMEOUT", _positive),
            pg_statement_timeout_s=read("PG_STATEMENT_TIMEOUT", _positive),
            pg_max_connections=read("PG_MAX_CONNECTIONS", _positive),
            pg_min_connections=read("PG_MIN_CONNECTIONS", _natural),
            environ=environ,
        )

    def require_plane(self) -> str:
        """The plane. Raises ConfigurationError where no one named it."""
        if not self.plane:
            raise ConfigurationError(
                "HOLDFAST_PLANE is not set: it names the plane, as plane.yaml does; for servers on this machine,"
                ' eval "$(holdfast dev env)" sets it'
            )
        return self.plane

    def secret(self, reference: Reference) -> str:
        """The value of a reference. Raises ConfigurationError, which says where it was looked for."""
        if "env" in reference:
            found = self.environ.get(reference["env"])
            if not found:
                raise ConfigurationError(f"the variable {reference['env']} is not set; the contract refers to it")
            return found
        try:
            return Path(reference["file"]).read_text().rstrip("\r\n")
        except OSError as error:
            raise ConfigurationError(f"{reference['file']} cannot be read: {error.strerror}") from None

    def text(self, value: Any) -> str | None:
        """A value of the contract that may be a reference."""
        return self.secret(value) if isinstance(value, Mapping) else value

    # Pools -------------------------------------------------------------------------------------------------

    def sized(self, spec: PoolSpec) -> PoolSpec:
        """A pool as the environment wants it. The upper bound wins where the two cross."""
        from dataclasses import replace

        most = self.pg_max_connections or spec.max
        least = spec.min if self.pg_min_connections is None else self.pg_min_connections
        return replace(
            spec,
            max=most,
            min=min(least, most),
            application_name=self.pg_app_name or spec.application_name,
            statement_timeout=self.pg_statement_timeout_s or spec.statement_timeout,
        )

    def login(self, contract: Contract, spec: PoolSpec) -> Login:
        """Who a pool logs in as, to which database. Raises ConfigurationError for a secret that is missing."""
        role = contract.roles.get(spec.role)
        user, password = self.pg_user, self.pg_password
        if user is None:
            user = spec.role or DEFAULT_USER
            password = self.secret(role.password) if role and role.password else self.pg_password
        target = contract.targets.get("postgres", {}).get(spec.target, {})
        wanted = self.pg_database if self.speaks_of(contract, spec) else None
        return Login(
            user=user,
            password=password or "",
            database=spec.database or wanted or target.get("database") or DEFAULT_DATABASE,
            application_name=spec.application_name,
            connect_timeout_s=self.connect_timeout_s,
            options={} if spec.pgbouncer else _options(spec),
        )

    @property
    def connect_timeout_s(self) -> int:
        """How long a connection to PostgreSQL may take to be made."""
        return self.pg_connect_timeout_s or DEFAULT_CONNECT_S

    def speaks_of(self, contract: Contract, spec: PoolSpec) -> bool:
        """Whether PG_HOST, PG_PORT and PG_DATABASE are about a pool's target: main, or the only one."""
        return spec.target == "main" or len(contract.targets.get("postgres", {})) == 1

    # NATS --------------------------------------------------------------------------------------------------

    def nats_options(self, contract: Contract | None = None, target: str = "main") -> dict[str, Any]:
        """Keywords for ``nats.connect``: servers, credentials, TLS, time-out. The contract may say more of a target.

        Raises ConfigurationError.
        """
        given = contract.targets.get("nats", {}).get(target, {}) if contract else {}
        urls = given.get("urls")
        if isinstance(urls, Mapping):
            urls = _list(self.secret(urls)) if self.nats_servers is None else ()
        options: dict[str, Any] = {
            "servers": list(self.nats_servers or ([urls] if isinstance(urls, str) else urls) or [DEFAULT_NATS]),
            "connect_timeout": contract.limits.jetstream_connect_timeout if contract else 10.0,
        }
        if self.nats_creds_file:
            options["user_credentials"] = self.nats_creds_file
        tls = given.get("tls") or {}
        ca = self.nats_ca_cert or tls.get("ca")
        cert = self.nats_tls_cert or tls.get("cert")
        key = self.nats_tls_key or self.text(tls.get("key"))
        if ca or cert:
            options["tls"] = _tls(ca, cert, key)
        return options

    def disagreements(self, contract: Contract) -> list[str]:
        """Sentences about variables that ask for other buckets than the plane has; the plane's hold."""
        if "state_bucket" not in contract.names:
            return []
        bucket = contract.bucket(contract.names.state_bucket)
        found = []
        if self.nats_kv_prefix is not None and not bucket.name.startswith(self.nats_kv_prefix):
            found.append(f"NATS_KV_PREFIX is {self.nats_kv_prefix}, and the plane's bucket is {bucket.name}")
        if self.nats_kv_ttl_s is not None and self.nats_kv_ttl_s != bucket.ttl_s:
            found.append(
                f"NATS_KV_TTL_MINUTES is {self.nats_kv_ttl_s / 60:g}, and {bucket.name}'s is {bucket.ttl_s / 60:g}"
            )
        if self.nats_kv_max_size is not None and self.nats_kv_max_size != bucket.max_bytes:
            found.append(
                f"NATS_KV_MAX_SIZE is {self.nats_kv_max_size}, and {bucket.name}'s is {bucket.max_bytes} bytes"
            )
        return found


class _Reader:
    """Reads one variable; what is wrong is told with its name."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __call__(self, name: str, form: Callable[[str], T]) -> T | None:
        text = self._environ.get(name, "").strip()
        if not text:
            return None
        try:
            return form(text)
        except ValueError as error:
            raise ConfigurationError(f"{name}: {error}") from None


def _list(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise ValueError("names nothing")
    return found


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def _natural(text: str) -> int:
    found = _whole(text)
    if found < 0:
        raise ValueError(f"{found} is below 0")
    return found


def _positive(text: str) -> int:
    found = _whole(text)
    if found < 1:
        raise ValueError(f"{found} is below 1")
    return found


def _port(text: str) -> int:
    found = _positive(text)
    if found > 65535:
        raise ValueError(f"{found} is no port")
    return found


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise ValueError(f"{text!r} is neither true nor false")
    return _TRUTH[text.lower()]


def size(text: str) -> int:
    """Bytes of ``1GB`` (10⁹) or ``1GiB`` (2³⁰). Raises ValueError."""
    digits = text.strip().rstrip("BKMGTibkmgt").rstrip()
    unit = text.strip()[len(digits) :].strip().upper()
    if unit not in _UNITS or not digits.replace(".", "", 1).isdigit():
        raise ValueError(f"{text!r} is no size such as 1GiB")
    return int(float(digits) * _UNITS[unit])


def _tls(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    import ssl

    try:
        context = ssl.create_default_context(cafile=ca)
        if cert:
            context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the TLS files for NATS cannot be used: {error.strerror or error}") from None
    return context


def _options(spec: PoolSpec) -> dict[str, str]:
    """Settings of a session as start-up options. PostgreSQL takes a bare number as milliseconds, so with a unit."""
    wanted = {
        "statement_timeout": spec.statement_timeout,
        "idle_in_transaction_session_timeout": spec.idle_in_transaction_timeout,
    }
    return {name: f"{max(1, round(seconds * 1000))}ms" for name, seconds in wanted.items() if seconds}


# Connection strings -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Login:
    """Who connects, to which database, and what holds for the session. ``options`` are server settings."""

    user: str
    password: str = field(repr=False)
    database: str
    application_name: str = "agent_data_layer"
    connect_timeout_s: int = DEFAULT_CONNECT_S
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tls:
    """Files of libpq's TLS. ``mode`` None: verify-full with a CA, else what the form of the connection says."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    mode: str | None = None


NO_TLS: Final = Tls()


def local(login: Login, *, socket: str | None = None, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT,
          tls: Tls = NO_TLS) -> str:  # fmt: skip
    """Conninfo for this machine: a Unix socket's folder, or loopback; no TLS unless it is asked for."""
    return conninfo(login, socket or host, port, tls, "disable")


def compose(login: Login, *, service: str = "postgres", port: int = DEFAULT_PORT, tls: Tls = NO_TLS) -> str:
    """Conninfo for a service of a compose file, whose name is its host; TLS where the server offers it."""
    return conninfo(login, service, port, tls, "prefer")


def kubernetes(login: Login, *, service: str = "postgres", namespace: str = "default", port: int = DEFAULT_PORT,
               tls: Tls = NO_TLS) -> str:  # fmt: skip
    """Conninfo for a service of a cluster, by its name inside the cluster; always TLS."""
    return conninfo(login, f"{service}.{namespace}.svc.cluster.local", port, tls, "require")


def cloud(login: Login, *, host: str, port: int = DEFAULT_PORT, tls: Tls = NO_TLS) -> str:
    """Conninfo for a managed server; always TLS, and verified where a CA is given."""
    return conninfo(login, host, port, tls, "require")


def conninfo(login: Login, host: str, port: int, tls: Tls, usual_mode: str) -> str:
    """libpq's keyword form, every value quoted. A host that begins with / is the folder of a socket, without TLS.

    ``sslmode=require`` alone authenticates nobody, so a CA means verify-full
    (https://www.postgresql.org/docs/current/libpq-ssl.html).
    """
    is_socket = host.startswith("/")
    words = {
        "host": host,
        "port": str(port),
        "dbname": login.database,
        "user": login.user,
        "password": login.password,
        "application_name": login.application_name,
        "connect_timeout": str(login.connect_timeout_s),
        "sslmode": "disable" if is_socket else tls.mode or ("verify-full" if tls.ca else usual_mode),
        "sslrootcert": tls.ca,
        "sslcert": tls.cert,
        "sslkey": tls.key,
        "options": " ".join(f"-c {name}={_escaped(value)}" for name, value in login.options.items()),
    }
    if not is_socket:
        words |= _KEEPALIVE
    return " ".join(f"{word}={_quoted(value)}" for word, value in words.items() if value)


#: A peer that vanished without a word is noticed within some 25 s.
_KEEPALIVE: Final = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _escaped(value: str) -> str:
    """Spaces part the arguments in ``options``."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
