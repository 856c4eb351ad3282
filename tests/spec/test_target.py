"""Targets say where servers are; their connection strings survive any name and any password."""

# ruff: noqa: E501  (a table reads best with one case on a line)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from provision.spec.document import load
from provision.spec.fields import FieldError
from provision.spec.target import Target, postgres_url
from tests.spec.sections import write


def target(tmp_path: Path, text: str, system: str = "postgres") -> Target:
    document = load(write(tmp_path, {"a.yaml": f"plane: a\ntargets: {{{system}: {{main: {text}}}}}"}))
    assert document.diagnostics == ()
    return document.targets["pg" if system == "postgres" else "nats", "main"]


def parsed(url: str) -> dict[str, Any]:
    """What libpq itself understands."""
    return conninfo_to_dict(url)


#: libpq takes no NUL anywhere.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@pytest.mark.req("D9.4")
@settings(max_examples=200, deadline=None)
@given(TEXT, TEXT, TEXT)
def test_any_user_password_and_database_reach_libpq_unchanged(user: str, password: str, database: str) -> None:
    for host in ("db.internal", "/var/run/postgresql", "::1"):
        main = Target("pg", "main", "external", {"host": host, "port": 5433})
        found = parsed(postgres_url(main, user=user, password=password, database=database))
        assert (found["user"], found["password"], found["dbname"]) == (user, password, database)
        assert (found["host"], found["port"]) == (host, "5433")


@pytest.mark.req("D9.3", "D9.5")
@pytest.mark.parametrize(
    ("text", "host", "sslmode"),
    [
        ("{kind: external, form: local}", "localhost", "disable"),
        ("{kind: external, form: local, host: /run/pg}", "/run/pg", "disable"),
        ("{kind: external, form: compose}", "postgres", "prefer"),
        ("{kind: external, form: compose, service: db}", "db", "prefer"),
        ("{kind: external, form: kubernetes, service: pg, namespace: data}", "pg.data.svc.cluster.local", "require"),
        ("{kind: external, form: cloud, host: h.example}", "h.example", "require"),
        ("{kind: external, form: cloud, host: h.example, tls: {ca: ca.pem}}", "h.example", "verify-full"),
        ("{kind: external, host: h, tls: {ca: ca.pem, mode: verify-ca}}", "h", "verify-ca"),
        ("{kind: external, host: h}", "h", "prefer"),
    ],
)  # fmt: skip
def test_the_form_of_a_connection_decides_host_and_tls(tmp_path: Path, text: str, host: str, sslmode: str) -> None:
    found = parsed(postgres_url(target(tmp_path, text)))
    assert (found["host"], found.get("sslmode")) == (host, sslmode)
    assert found.get("sslrootcert") == ("ca.pem" if "ca.pem" in text else None)


@pytest.mark.req("D9.5")
def test_timeouts_travel_as_libpq_and_server_understand_them(tmp_path: Path) -> None:
    main = target(tmp_path, "{kind: external, host: h, connect_timeout: 1500ms}")
    found = parsed(postgres_url(main, settings={"statement_timeout": "30s", "search_path": "a, b"}))
    assert (found["connect_timeout"], found["options"]) == ("1", "-c statement_timeout=30s -c search_path=a,\\ b")


def test_endpoints_take_three_forms(tmp_path: Path) -> None:
    text = "{kind: external, endpoints: {primary: 'db:6432', replica: {host: r}, far: {env: FAR}, six: '[::1]:5', bare: b}}"
    main = target(tmp_path, text)
    assert main.settings["endpoints"] == {
        "primary": {"host": "db", "port": 6432}, "replica": {"host": "r", "port": 5432}, "far": {"env": "FAR"},
        "six": {"host": "::1", "port": 5}, "bare": {"host": "b", "port": 5432},
    }  # fmt: skip
    assert parsed(postgres_url(main, endpoint="six"))["host"] == "::1"
    with pytest.raises(FieldError, match="no endpoint analytics"):
        postgres_url(main, endpoint="analytics")


def test_declared_facts_have_the_form_of_measured_ones(tmp_path: Path) -> None:
    text = "{kind: external, servers: 2, tags: [[a, b], [a, c]], max_payload: 8MiB, version: '2.11.3'}"
    facts = target(tmp_path, text, "nats").facts
    assert facts.version == (2, 11, 3)
    assert facts.options == {
        "servers": 2, "tags": ["a", "b", "c"], "server_tags": [["a", "b"], ["a", "c"]], "max_payload": 8388608,
    }  # fmt: skip
    shared = target(tmp_path, "{kind: external, servers: 2, tags: [a]}", "nats").facts.options
    assert shared["server_tags"] == [["a"], ["a"]]
    postgres = target(tmp_path, "{kind: embedded, version: 16, extensions: [vector]}").facts
    assert (postgres.version, postgres.options["extensions"]) == ((16, 0, 0), {"vector": ""})


def test_what_is_not_declared_is_no_fact(tmp_path: Path) -> None:
    assert target(tmp_path, "{kind: external}", "nats").facts.options == {}
