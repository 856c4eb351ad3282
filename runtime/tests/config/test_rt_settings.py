"""Settings from the environment and the four forms of a connection, read back by libpq and tried on a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from holdfast import settings as forms
from holdfast.contract import Contract
from holdfast.errors import ConfigurationError
from holdfast.settings import Login, Settings, Tls
from holdfast.sql.endpoints import Place, Reach

if TYPE_CHECKING:
    from conftest import Servers

NASTY = "p@ss/w'o\\rd %20&x=y"
LOGIN = Login(user="o'neil @x", password=NASTY, database="d b/1", application_name="app one", connect_timeout_s=3,
              options={"statement_timeout": "30000ms"})  # fmt: skip
TARGETS: dict[str, Any] = {
    "local": {"form": "local"},
    "compose": {"form": "compose", "service": "db"},
    "kubernetes": {"form": "kubernetes", "service": "pg", "namespace": "data"},
    "cloud": {"form": "cloud", "host": "pg.example.com", "port": 6432, "tls": {"ca": "/ca.pem"}},
}


def contract(target: Mapping[str, Any], **pool: Any) -> Contract:
    return Contract.of({
        "contract_version": "1.0", "plane": "p", "env": "dev", "digest": "", "names": {}, "limits": {},
        "targets": {"postgres": {"main": dict(target)}, "nats": {"main": {"urls": ["nats://a:4222"]}}},
        "pools": {"primary": {"target": "main", "role": "app", "statement_timeout": 30_000_000_000, **pool}},
        "roles": {"app": {"target": "main", "password": {"env": "APP_PW"}}},
        "streams": {}, "buckets": {"B": {"target": "main", "ttl": 1_800_000_000_000, "max_bytes": 10}},
        "publishers": {},
    })  # fmt: skip


def words(target: Mapping[str, Any], environ: Mapping[str, str] | None = None, **pool: Any) -> dict[str, Any]:
    """What libpq understands of the connection string of a pool."""
    made = contract(target, **pool)
    settings = Settings.from_environment({"APP_PW": NASTY, **(environ or {})})
    spec, reach = settings.sized(made.pools["primary"]), Reach(made, settings)
    return dict(conninfo_to_dict(reach.conninfo(spec, reach.places(spec)[0])))


@pytest.mark.req("D9.3", "D9.4", "D9.5")
@pytest.mark.parametrize(
    ("text", "host", "mode"),
    [
        (forms.local(LOGIN), "localhost", "disable"),
        (forms.local(LOGIN, socket="/run/my pg"), "/run/my pg", "disable"),
        (forms.compose(LOGIN, service="db"), "db", "prefer"),
        (forms.kubernetes(LOGIN, service="pg", namespace="x"), "pg.x.svc.cluster.local", "require"),
        (forms.cloud(LOGIN, host="h"), "h", "require"),
        (forms.cloud(LOGIN, host="h", tls=Tls(ca="/my ca.pem")), "h", "verify-full"),
        (forms.cloud(LOGIN, host="h", tls=Tls(ca="/ca.pem", mode="verify-ca")), "h", "verify-ca"),
    ],
)
def test_every_form_keeps_every_part(text: str, host: str, mode: str) -> None:
    read = conninfo_to_dict(text)
    assert (read["host"], read["sslmode"]) == (host, mode)
    assert (read["user"], read["password"], read["dbname"]) == (LOGIN.user, LOGIN.password, LOGIN.database)
    assert read["application_name"] == "app one"
    assert read["options"] == "-c statement_timeout=30000ms"
    assert read.get("sslrootcert") == ("/my ca.pem" if "my ca" in text else "/ca.pem" if "ca.pem" in text else None)
    assert int(str(read["connect_timeout"])) == 3


@pytest.mark.req("D9.3")
@pytest.mark.parametrize(
    ("form", "host", "port", "mode"),
    [
        ("local", "localhost", "5432", "disable"),
        ("compose", "db", "5432", "prefer"),
        ("kubernetes", "pg.data.svc.cluster.local", "5432", "require"),
        ("cloud", "pg.example.com", "6432", "verify-full"),
    ],
)
def test_the_contract_chooses_the_form(form: str, host: str, port: str, mode: str) -> None:
    read = words(TARGETS[form])
    assert (read["host"], read["port"], read["sslmode"]) == (host, port, mode)


@pytest.mark.req("D9.4", "D9.5", "D10.6")
def test_a_server_gets_what_was_meant(servers: Servers) -> None:
    with psycopg.connect(**servers.admin, autocommit=True) as admin:
        admin.execute('DROP ROLE IF EXISTS "o\'neil @x"')
        admin.execute(psycopg.sql.SQL('CREATE ROLE "o\'neil @x" LOGIN PASSWORD {}').format(psycopg.sql.Literal(NASTY)))
        login = replace(LOGIN, database=servers.environ["PG_DATABASE"])
        text = forms.local(login, host=servers.environ["PG_HOST"], port=int(servers.environ["PG_PORT"]))
        with psycopg.connect(text) as connection:
            row = connection.execute(
                "SELECT current_user, current_setting('statement_timeout'), current_setting('application_name')"
            ).fetchone()
        admin.execute('DROP ROLE "o\'neil @x"')
    assert row == ("o'neil @x", "30s", "app one")


@pytest.mark.req("D9.1")
def test_the_variables_win_over_the_contract() -> None:
    read = words(
        TARGETS["cloud"],
        {
            "PG_HOST": "other", "PG_PORT": "7000", "PG_DATABASE": "mine", "PG_USER": "me", "PG_PASSWORD": "mine too",
            "PG_APP_NAME": "app", "PG_SSL_ROOT_CERT": "/own.pem", "PG_CONNECT_TIMEOUT": "4",
            "PG_STATEMENT_TIMEOUT": "9",
        },
    )  # fmt: skip
    assert (read["host"], read["port"], read["dbname"], read["user"]) == ("other", "7000", "mine", "me")
    assert (read["password"], read["application_name"]) == ("mine too", "app")
    assert (read["sslrootcert"], read["sslmode"]) == ("/own.pem", "verify-full")
    assert (str(read["connect_timeout"]), read["options"]) == (
        "4",
        "-c statement_timeout=9000ms -c idle_in_transaction_session_timeout=60000ms",
    )


@pytest.mark.req("D9.1", "D9.6")
def test_without_variables_and_contract_the_defaults_of_the_sources_hold() -> None:
    read = words({"form": "local"})
    assert (read["host"], read["port"], read["dbname"]) == ("localhost", "5432", "agent_system")
    assert str(read["connect_timeout"]) == "10"
    assert "sslrootcert" not in read
    socket = words({"form": "local"}, {"PG_USE_SOCKET": "true"})
    assert (socket["host"], socket["user"]) == ("/var/run/postgresql", "app")


@pytest.mark.req("D9.6")
def test_a_pools_own_database_wins_over_the_variable_and_that_over_the_targets() -> None:
    target = {**TARGETS["compose"], "database": "targets"}
    assert words(target)["dbname"] == "targets"
    assert words(target, {"PG_DATABASE": "variable"})["dbname"] == "variable"
    assert words(target, {"PG_DATABASE": "variable"}, database="own")["dbname"] == "own"


@pytest.mark.req("D9.1")
def test_pool_sizes_follow_the_environment_and_the_upper_bound_wins() -> None:
    made = contract(TARGETS["local"], min=2, max=10)
    spec = made.pools["primary"]
    sized = Settings.from_environment({"PG_MAX_CONNECTIONS": "1"}).sized(spec)
    assert (sized.min, sized.max) == (1, 1)
    sized = Settings.from_environment({"PG_MIN_CONNECTIONS": "0"}).sized(spec)
    assert (sized.min, sized.max) == (0, 10)


@pytest.mark.req("D9.5")
def test_behind_pgbouncer_no_start_options_are_sent() -> None:
    assert "options" not in words(TARGETS["compose"], pgbouncer=True, mode="transaction")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PG_PORT", "fifty"),
        ("PG_PORT", "70000"),
        ("PG_USE_SOCKET", "perhaps"),
        ("PG_STATEMENT_TIMEOUT", "0"),
        ("PG_MIN_CONNECTIONS", "-1"),
        ("NATS_KV_MAX_SIZE", "much"),
        ("NATS_KV_COMPRESSION", "2"),
        ("NATS_SERVERS", ","),
    ],
)
@pytest.mark.req("D9.1", "D9.2")
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_environment({name: value})


def test_an_empty_variable_is_not_set() -> None:
    settings = Settings.from_environment({"PG_HOST": "", "PG_SSL_ROOT_CERT": " ", "HOLDFAST_ENV": ""})
    assert (settings.pg_hosts, settings.pg_ssl_root_cert, settings.env) == (None, None, "dev")


@pytest.mark.req("D9.2")
def test_nats_variables(tmp_path: Path) -> None:
    settings = Settings.from_environment({
        "NATS_SERVERS": "nats://a:1, nats://b:2", "NATS_CREDS_FILE": "/x.creds", "NATS_KV_TTL_MINUTES": "10",
        "NATS_KV_PREFIX": "agent_", "NATS_KV_MAX_SIZE": "1GB", "NATS_KV_REPLICAS": "3", "NATS_KV_COMPRESSION": "true",
    })  # fmt: skip
    assert settings.nats_options()["servers"] == ["nats://a:1", "nats://b:2"]
    assert settings.nats_options()["user_credentials"] == "/x.creds"
    assert (settings.nats_kv_max_size, settings.nats_kv_ttl_s) == (10**9, 600)
    said = settings.disagreements(replace_names(contract(TARGETS["local"])))
    assert len(said) == 3
    assert "NATS_KV_TTL_MINUTES is 10, and B's is 30" in said[1]
    nothing = Settings.from_environment({})
    assert nothing.nats_options()["servers"] == ["nats://localhost:4222"]
    assert nothing.nats_options(contract(TARGETS["local"]))["servers"] == ["nats://a:4222"]
    missing = Settings.from_environment({"NATS_CA_CERT": str(tmp_path / "none.pem")})
    with pytest.raises(ConfigurationError, match="TLS files for NATS"):
        missing.nats_options()


def replace_names(made: Contract) -> Contract:
    return replace(made, names=replace(made.names, given={"state_bucket": "B"}))


@pytest.mark.parametrize(
    ("text", "bytes_"), [("1GB", 10**9), ("1GiB", 2**30), ("1.5 KB", 1500), ("7", 7), ("64MiB", 2**26)]
)
def test_sizes(text: str, bytes_: int) -> None:
    assert forms.size(text) == bytes_


@pytest.mark.req("D10.5")
def test_secrets_stay_out_of_texts(tmp_path: Path) -> None:
    settings = Settings.from_environment({"PG_PASSWORD": NASTY, "APP_PW": NASTY})
    login = settings.login(contract(TARGETS["local"]), contract(TARGETS["local"]).pools["primary"])
    assert login.password == NASTY
    assert NASTY not in repr(settings) + repr(login)
    with pytest.raises(ConfigurationError, match="APP_PW is not set"):
        words(TARGETS["local"], {"APP_PW": ""})
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    assert settings.secret({"file": str(secret)}) == "from a file"
    with pytest.raises(ConfigurationError, match="none"):
        settings.secret({"file": str(tmp_path / "none")})


def test_an_embedded_server_needs_its_port() -> None:
    with pytest.raises(ConfigurationError, match="holdfast dev env"):
        words({"kind": "embedded"})
    assert words({"kind": "embedded"}, {"PG_PORT": "27000"})["port"] == "27000"


def places(target: Mapping[str, Any], environ: Mapping[str, str] | None = None, **pool: Any) -> tuple[Place, ...]:
    made = contract(target, **pool)
    settings = Settings.from_environment({"APP_PW": "x", **(environ or {})})
    return Reach(made, settings).places(made.pools["primary"])


@pytest.mark.req("D8.6")
def test_a_promoted_standby_is_looked_for_wherever_the_target_has_servers() -> None:
    target = {"endpoints": {"primary": {"host": "a", "port": 1}, "replica": {"host": "b,c", "port": 2}}}
    assert places(target) == (("a", 1), ("b", 2), ("c", 2))
    assert places(target, endpoint="replica") == (("b", 2), ("c", 2))
    assert places(target, {"PG_HOST": "x,y", "PG_PORT": "1,2"}) == (("x", 1), ("y", 2), ("b", 2), ("c", 2))
    assert places({"endpoints": {"primary": {"env": "WHERE"}}}, {"WHERE": "[::1]:7,h"}) == (("::1", 7), ("h", 5432))
    with pytest.raises(ConfigurationError, match="no endpoint analytics"):
        places(target, endpoint="analytics")
    with pytest.raises(ConfigurationError, match="3 hosts and 2 ports"):
        places(target, {"PG_HOST": "x,y,z", "PG_PORT": "1,2"})


def test_a_pool_goes_through_the_pooler_that_the_plane_runs_before_it() -> None:
    """The other pools, and one whose primary the environment names, do not."""
    endpoints = {"primary": {"host": "a", "port": 1}, "replica": {"host": "b", "port": 2}}
    target = {"endpoints": endpoints, "poolers": {"primary": "pool-a"}}
    assert places(target, pgbouncer=True, mode="transaction") == (("pool-a", 5432),)
    assert places(target, endpoint="replica", pgbouncer=True, mode="transaction") == (("pool-a", 5432),)
    assert places(target) == (("a", 1), ("b", 2))
    assert places({**target, "poolers": {"other": "pool-a"}}, pgbouncer=True) == (("a", 1), ("b", 2))
    assert places(target, {"PG_HOST": "x"}, pgbouncer=True)[0] == ("x", 5432)


@pytest.mark.req("D9.1")
def test_the_variables_speak_of_the_main_target_only() -> None:
    made = contract({"form": "local", "host": "a"})
    targets = {"postgres": {**made.targets["postgres"], "archive": {"form": "local", "host": "b", "database": "old"}}}
    archive = replace(made.pools["primary"], target="archive")
    settings = Settings.from_environment({"APP_PW": "x", "PG_HOST": "mine", "PG_DATABASE": "d"})
    reach = Reach(replace(made, targets=targets), settings)
    assert reach.places(made.pools["primary"]) == (("mine", 5432),)
    assert reach.places(archive) == (("b", 5432),)
    assert conninfo_to_dict(reach.conninfo(archive, Place("b", 5432)))["dbname"] == "old"


def test_of_a_dsn_only_the_way_is_taken() -> None:
    dsn = {"dsn": {"env": "DSN"}}
    given = {"DSN": "postgresql://deployer:secret@h:99/d?sslmode=verify-full&sslrootcert=/c.pem"}
    read = words(dsn, given)
    assert (read["host"], read["port"], read["user"], read["password"]) == ("h", "99", "app", NASTY)
    assert (read["sslmode"], read["sslrootcert"]) == ("verify-full", "/c.pem")
