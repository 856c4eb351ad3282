"""Connection strings of pools: what libpq and a real server make of them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from provision.pools import connection
from provision.pools.kinds import FIELDS
from provision.spec.fields import FieldError
from provision.spec.ident import Address
from provision.spec.record import Record
from provision.spec.target import POSTGRES_TARGET, Target

NASTY = "p@ss/w:o rd?#%&='\"é"


def target(**settings: Any) -> Target:
    return Target("pg", "main", "external", POSTGRES_TARGET.parse({"kind": "external", **settings}))


def pool(**settings: Any) -> Record:
    address = Address.root("plane", "main", "pool", "work")
    return Record(address, FIELDS.parse({"role": "app", **settings}))


@pytest.mark.req("D9.6")
def test_what_a_pool_declares_wins_over_its_target() -> None:
    here = target(host="db", database="mister_smith", endpoints={"analytics": "reports:5433"})
    plain = conninfo_to_dict(connection.url(here, pool()))
    assert (plain["host"], plain["dbname"], plain["user"]) == ("db", "mister_smith", "app")
    own = pool(endpoint="analytics", database="mister_smith_analytics", application_name="reports")
    found = conninfo_to_dict(connection.url(here, own))
    assert (found["host"], found["port"], found["dbname"]) == ("reports", "5433", "mister_smith_analytics")
    assert found["application_name"] == "reports"


@pytest.mark.req("D9.3", "D9.4")
@pytest.mark.parametrize("form", ["local", "compose", "kubernetes", "cloud"])
def test_each_form_gives_a_url_that_libpq_reads_back(form: str) -> None:
    here = target(form=form, host="db.example", database="my/db")
    found = conninfo_to_dict(connection.url(here, pool(role="us@er/ one"), NASTY))
    assert (found["host"], found["user"], found["password"]) == ("db.example", "us@er/ one", NASTY)
    assert found["dbname"] == "my/db"


@pytest.mark.req("D9.3", "D9.4")
def test_a_socket_keeps_the_user() -> None:
    found = conninfo_to_dict(connection.url(target(form="local", host="/var/run/post gresql"), pool()))
    assert (found["host"], found["user"]) == ("/var/run/post gresql", "app")


@pytest.mark.req("D9.5")
def test_timeouts_carry_their_units_as_start_up_options() -> None:
    work = pool(statement_timeout="30s", idle_in_transaction_timeout="5m")
    text = connection.url(target(host="db", form="cloud", tls={"ca": "/ca.pem"}), work)
    assert "options=-c%20statement_timeout%3D30s%20-c%20idle_in_transaction_session_timeout%3D5min" in text
    found = conninfo_to_dict(text)
    assert "statement_timeout" not in found
    assert (found["sslmode"], found["sslrootcert"]) == ("verify-full", "/ca.pem")


def test_a_timeout_of_zero_is_left_to_the_role() -> None:
    assert connection.timeouts(pool(statement_timeout=0, idle_in_transaction_timeout=0)) == {}


def test_a_timeout_is_rounded_up_to_what_the_server_can_hold() -> None:
    assert connection.timeouts(pool(statement_timeout="1500us"))["statement_timeout"] == "2ms"


def test_behind_pgbouncer_no_start_up_options_are_sent() -> None:
    assert "options" not in connection.url(target(host="db"), pool(pgbouncer=True))


def test_an_endpoint_that_the_target_lacks_is_named() -> None:
    with pytest.raises(FieldError, match="reports"):
        connection.url(target(host="db"), pool(endpoint="reports"))


@pytest.mark.req("D9.4", "D9.5")
def test_a_real_server_takes_the_url_of_a_nasty_login(pg_database: dict[str, Any]) -> None:
    with psycopg.connect(**pg_database, autocommit=True) as admin:
        admin.execute("CREATE ROLE \"us@er/ one\" LOGIN PASSWORD 'p@ss/w:o rd?#%&=é'")
    here = target(form="local", host=pg_database["host"], port=pg_database["port"], database=pg_database["dbname"])
    work = pool(role="us@er/ one", statement_timeout="90s", idle_in_transaction_timeout="1500ms")
    with psycopg.connect(connection.url(here, work, "p@ss/w:o rd?#%&=é")) as session:
        row = session.execute(
            "SELECT session_user, current_setting('statement_timeout'),"
            " current_setting('idle_in_transaction_session_timeout'), current_setting('application_name')"
        ).fetchone()
    assert row == ("us@er/ one", "90s", "1500ms", "agent_system")
