"""SCRAM verifiers: the published vector, SASLprep, and a real server that lets the password in."""

from __future__ import annotations

import base64
from typing import Any

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provision.postgres.passwords import build_verifier, parse_verifier, saslprep, verify

PASSWORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def test_the_vector_of_rfc_7677() -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    assert build_verifier("pencil", salt=salt, iterations=4096) == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


@given(PASSWORDS, PASSWORDS)
@example("I\u00adX", "IX")
def test_a_verifier_fits_its_password_and_no_other(password: str, other: str) -> None:
    text = build_verifier(password, iterations=2)
    assert verify(password, text)
    if _prepared(other) != _prepared(password):
        assert not verify(other, text)


def _prepared(password: str) -> str:
    try:
        return saslprep(password)
    except ValueError:
        return password


@pytest.mark.parametrize(
    ("given_text", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
    ],
)
def test_the_examples_of_rfc_4013(given_text: str, prepared: str) -> None:
    assert saslprep(given_text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u0627\u0031", "\u00ad", "a\u0627"])
def test_what_rfc_4013_prohibits_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        saslprep(text)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "",
        "md5a3556571e93b0d20722ba62be61e8c2d",
        "SCRAM-SHA-256$4096:c2FsdA==$bm90MzI=:bm90MzI=",
        "SCRAM-SHA-256$0:c2FsdA==$bm90MzI=:bm90MzI=",
        "SCRAM-SHA-256$4096:c2Fs*==$x:y",
    ],
)
def test_anything_but_a_verifier_fits_no_password(stored: str | None) -> None:
    assert not verify("pencil", stored)


def test_an_empty_password_makes_no_verifier() -> None:
    with pytest.raises(ValueError, match="empty"):
        build_verifier("")


def test_a_verifier_does_not_show_its_keys() -> None:
    found = parse_verifier(build_verifier("pencil"))
    assert found is not None
    assert found.stored_key.hex() not in repr(found)
    assert base64.b64encode(found.stored_key).decode() not in repr(found)


@pytest.mark.parametrize(
    "password",
    ["plain", 'it\'s $quoted$ \\ "odd"', "p\u00e4ss\u00adwort\u2168", "\u00a0 inner", "\u0627\u0031", "x" * 500],
)
@pytest.mark.req("A4.8", "D9.4")
def test_a_server_lets_the_password_of_a_verifier_in(pg_database: dict[str, Any], password: str) -> None:
    with psycopg.connect(**pg_database, autocommit=True) as admin:
        admin.execute("CREATE ROLE guest LOGIN")
        admin.execute(f"ALTER ROLE guest PASSWORD '{build_verifier(password)}'".encode())
        psycopg.connect(**{**pg_database, "user": "guest", "password": password}).close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(**{**pg_database, "user": "guest", "password": password + "!"}).close()
        admin.execute("SET password_encryption = 'scram-sha-256'")
        literal = password.replace("\\", "\\\\").replace("'", "''")
        admin.execute(f"ALTER ROLE guest PASSWORD E'{literal}'".encode())
        row = admin.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'guest'").fetchone()
        assert row is not None
        assert verify(password, row[0])
