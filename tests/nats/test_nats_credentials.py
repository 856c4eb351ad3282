"""Credentials files and seeds of NATS: they open a connection, and what is wrong with one is told without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from provision.embedded.nats import Server
from provision.nats.api import connect, settings
from provision.nats.errors import AuthenticationFailed, ConfigurationError
from tests.nats.operators import Operator


class Guarded(NamedTuple):
    """A server that lets only the operator's users in."""

    url: str
    operator: Operator


@pytest.fixture(scope="module")
def guarded(server_root: Path) -> Iterator[Guarded]:
    operator = Operator()
    with Server(server_root / "nats-guarded", config=operator.config) as server:
        yield Guarded(server.url, operator)


@pytest.mark.req("B3.3", "D9.2")
def test_a_credentials_file_signs_in(guarded: Guarded, tmp_path: Path) -> None:
    guarded.operator.credentials(tmp_path / "user.creds")
    with connect(settings({"urls": [guarded.url], "creds": str(tmp_path / "user.creds")})) as session:
        assert session.request("$JS.API.STREAM.NAMES", {})["total"] == 0


@pytest.mark.req("B3.3")
def test_a_stranger_is_refused_without_a_word_of_its_key(guarded: Guarded, tmp_path: Path) -> None:
    seed = Operator().credentials(tmp_path / "stranger.creds")
    with pytest.raises(AuthenticationFailed, match="refuse this user") as refused:
        connect(settings({"urls": [guarded.url], "creds": str(tmp_path / "stranger.creds")}))
    assert seed not in f"{refused.value} {refused.value.help}"
    with pytest.raises(AuthenticationFailed):
        connect(settings({"urls": [guarded.url]}))
    with pytest.raises(AuthenticationFailed):
        connect(settings({"urls": [guarded.url], "nkey": seed}))


_JWT = "-----BEGIN NATS USER JWT-----\nabc\n------END NATS USER JWT------\n"
_SEED = "-----BEGIN USER NKEY SEED-----\nSUSECRET\n------END USER NKEY SEED------\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "hold no user and no key"),
        (_JWT, "hold no user and no key"),
        (_SEED, "hold no user and no key"),
        (_JWT + _SEED, "is not one of a user"),
    ],
)
def test_a_file_that_is_none_is_told_without_its_content(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "user.creds"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=says) as refused:
        connect(settings({"urls": ["nats://127.0.0.1:1"], "creds": str(path)}))
    assert "SUSECRET" not in f"{refused.value} {refused.value.help}"


def test_the_content_in_place_of_the_path_is_not_told() -> None:
    with pytest.raises(ConfigurationError) as refused:
        connect(settings({"urls": ["nats://127.0.0.1:1"], "creds": (_JWT + _SEED) * 50}))
    assert "SUSECRET" not in f"{refused.value} {refused.value.help}"


def test_a_seed_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is not one of a user"):
        connect(settings({"urls": ["nats://127.0.0.1:1"], "nkey": "SUSECRET"}))
