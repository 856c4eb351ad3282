"""Where the servers of a pool are: the contract's target and endpoint, with what the environment lays over them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from holdfast import settings as forms
from holdfast.contract import Contract, PoolSpec
from holdfast.errors import ConfigurationError
from holdfast.settings import Login, Settings, Tls

PRIMARY: Final = "primary"


class Place(NamedTuple):
    """One server: a host or the folder of a socket, and a port."""

    host: str
    port: int


class Reach:
    """How the pools of one contract get to their servers. Raises ConfigurationError."""

    def __init__(self, contract: Contract, settings: Settings) -> None:
        self._contract, self._settings = contract, settings

    def places(self, spec: PoolSpec) -> tuple[Place, ...]:
        """The servers of a pool's endpoint, in the order in which to try them."""
        target = self._target(spec)
        pooler = self._pooler(spec, target)
        if pooler is not None:
            return (pooler,)
        if spec.endpoint == PRIMARY:
            # A promoted standby is found behind any name that the target has.
            return tuple(dict.fromkeys([*self._primary(spec, target), *self._others(target)]))
        if spec.endpoint not in (target.get("endpoints") or {}):
            raise ConfigurationError(f"pool {spec.name}: target {spec.target} has no endpoint {spec.endpoint}")
        return self._declared(target, spec.endpoint)

    def conninfo(self, spec: PoolSpec, place: Place) -> str:
        """The connection string of a pool to one of its places, in the form of the target."""
        target, login = self._target(spec), self._settings.login(self._contract, spec)
        return _build(target, login, place, self._tls(target))

    def _target(self, spec: PoolSpec) -> Mapping[str, Any]:
        found = self._contract.targets.get("postgres", {}).get(spec.target)
        if found is None:
            raise ConfigurationError(f"pool {spec.name} belongs to target {spec.target}, which the contract lacks")
        return found

    def _pooler(self, spec: PoolSpec, target: Mapping[str, Any]) -> Place | None:
        """The PgBouncer that the plane runs before this pool; hosts of the environment stand for the primary before it.

        It finds a promoted standby by itself.
        """
        host = (target.get("poolers") or {}).get(spec.name)
        if host is None or not spec.pgbouncer:
            return None
        if spec.endpoint == PRIMARY and self._settings.speaks_of(self._contract, spec) and self._of_environment(target):
            return None
        return Place(str(host), forms.DEFAULT_PORT)

    def _others(self, target: Mapping[str, Any]) -> Iterator[Place]:
        for name in target.get("endpoints") or {}:
            if name != PRIMARY:
                # A reference that only those who read there can resolve is no reason to fail here.
                with contextlib.suppress(ConfigurationError):
                    yield from self._declared(target, name)

    def _of_environment(self, target: Mapping[str, Any]) -> tuple[Place, ...]:
        own = self._settings
        ports = own.pg_ports or (target.get("port") or forms.DEFAULT_PORT,)
        if own.pg_use_socket:
            return (Place(own.pg_socket_path or forms.DEFAULT_SOCKET, ports[0]),)
        return _paired(own.pg_hosts or (self._host(target),), ports) if own.pg_hosts or own.pg_ports else ()

    def _primary(self, spec: PoolSpec, target: Mapping[str, Any]) -> tuple[Place, ...]:
        given = target.get("endpoints") or {}
        own = self._of_environment(target) if self._settings.speaks_of(self._contract, spec) else ()
        if own:
            return own
        if PRIMARY in given:
            return self._declared(target, PRIMARY)
        if target.get("kind") == "embedded":
            raise ConfigurationError(
                'PG_PORT is not set, and an embedded server\'s port changes: eval "$(holdfast dev env)"'
            )
        if not target.get("host") and target.get("dsn"):
            return self._of_dsn(target)
        return _paired((self._host(target),), (target.get("port") or forms.DEFAULT_PORT,))

    def _declared(self, target: Mapping[str, Any], name: str) -> tuple[Place, ...]:
        """An endpoint: host and port, several hosts with commas, or a reference to text such as host:port,host."""
        entry = target["endpoints"][name]
        if "host" in entry:
            hosts = tuple(host.strip() for host in entry["host"].split(","))
            return _paired(hosts, (entry.get("port") or forms.DEFAULT_PORT,))
        return tuple(_place(part) for part in self._settings.secret(entry).split(",") if part.strip())

    def _of_dsn(self, target: Mapping[str, Any]) -> tuple[Place, ...]:
        words = self._dsn(target)
        hosts = tuple((words.get("host") or forms.DEFAULT_HOST).split(","))
        return _paired(hosts, tuple(int(port) for port in (words.get("port") or str(forms.DEFAULT_PORT)).split(",")))

    def _dsn(self, target: Mapping[str, Any]) -> Mapping[str, str]:
        """The words of a connection string; its user and password are the deployer's and not ours to use."""
        import psycopg
        from psycopg.conninfo import conninfo_to_dict

        try:
            words = conninfo_to_dict(self._settings.text(target["dsn"]) or "")
        except psycopg.Error:
            raise ConfigurationError("the target's dsn is no connection string") from None
        return {word: str(value) for word, value in words.items() if value is not None}

    def _host(self, target: Mapping[str, Any]) -> str:
        host = target.get("host")
        form = target.get("form")
        if host:
            return str(host)
        service, namespace = target.get("service") or "postgres", target.get("namespace") or "default"
        if form == "compose":
            return str(service)
        return f"{service}.{namespace}.svc.cluster.local" if form == "kubernetes" else forms.DEFAULT_HOST

    def _tls(self, target: Mapping[str, Any]) -> Tls:
        given = dict(target.get("tls") or {})
        if not given and target.get("dsn") and "host" not in target and "endpoints" not in target:
            words = self._dsn(target)
            given = {"mode": words.get("sslmode"), "ca": words.get("sslrootcert")}
        own = self._settings.pg_ssl_root_cert
        mode = given.get("mode")
        if own and mode not in {None, "verify-ca", "verify-full"}:
            mode = None
        text = self._settings.text
        return Tls(ca=own or text(given.get("ca")), cert=given.get("cert"), key=given.get("key"), mode=mode)


#: sslmode of each form where no CA and no mode is given.
_USUAL: Final[Mapping[str | None, str]] = {
    "local": "disable",
    "compose": "prefer",
    "kubernetes": "require",
    "cloud": "require",
    None: "prefer",
}


def _build(target: Mapping[str, Any], login: Login, place: Place, tls: Tls) -> str:
    form = "local" if target.get("kind") == "embedded" else target.get("form")
    return forms.conninfo(login, place.host, place.port, tls, _USUAL[form])


def _paired(hosts: tuple[str, ...], ports: tuple[int, ...]) -> tuple[Place, ...]:
    """One port serves all hosts, else each has its own, as in libpq."""
    if len(ports) == 1:
        ports = ports * len(hosts)
    if len(hosts) == 1:
        hosts = hosts * len(ports)
    if len(hosts) != len(ports):
        raise ConfigurationError(f"{len(hosts)} hosts and {len(ports)} ports: give one port, or one for each host")
    return tuple(Place(host, port) for host, port in zip(hosts, ports, strict=True))


def _place(text: str) -> Place:
    host, colon, port = text.strip().rpartition(":")
    if colon and port.isdigit():
        return Place(host.strip("[]"), int(port))
    return Place(text.strip().strip("[]"), forms.DEFAULT_PORT)
