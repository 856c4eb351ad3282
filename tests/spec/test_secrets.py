"""Secrets are found behind their references, named when missing, and masked wherever they turn up."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest

from provision.spec import secrets
from provision.spec.secrets import Redactor, SecretMissing, resolve

SECRET = "pä ss/w@rd'\"%1"


def test_the_environment_wins_over_generated_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"HOLDFAST_TEST_A": "generated"}
    monkeypatch.delenv("HOLDFAST_TEST_A", raising=False)
    assert resolve({"env": "HOLDFAST_TEST_A"}, tmp_path, extra) == "generated"
    monkeypatch.setenv("HOLDFAST_TEST_A", "from the shell")
    assert resolve({"env": "HOLDFAST_TEST_A"}, tmp_path, extra) == "from the shell"


def test_a_secret_file_is_read_below_the_root_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(f"{SECRET}\r\n", encoding="utf-8")
    assert resolve({"file": "pw"}, tmp_path) == SECRET


@pytest.mark.req("A4.8")
def test_a_missing_secret_is_a_typed_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_TEST_EMPTY", "")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"hunter2\xff")
    for reference, name in (
        ({"env": "HOLDFAST_TEST_UNSET"}, "HOLDFAST_TEST_UNSET"),
        ({"env": "HOLDFAST_TEST_EMPTY"}, "HOLDFAST_TEST_EMPTY"),
        ({"file": "nowhere"}, "nowhere"),
        ({"file": "empty"}, "empty"),
        ({"file": "binary"}, "binary"),
        ({"file": "."}, "."),
    ):
        with pytest.raises(SecretMissing, match=name) as raised:
            resolve(reference, tmp_path)
        assert raised.value.name == name
        assert name in raised.value.help
        assert "hunter2" not in "".join(traceback.format_exception(raised.value))
        assert not secrets.is_set(reference, tmp_path)


@pytest.mark.req("A4.8", "B3.3")
def test_every_spelling_of_a_known_secret_is_masked() -> None:
    import json
    from urllib.parse import quote

    redact = Redactor([SECRET])
    for text in (SECRET, quote(SECRET, safe=""), quote(SECRET), json.dumps(SECRET), repr(SECRET), f"x{SECRET}y"):
        assert "ss" not in redact(text), text


def test_passwords_of_connection_strings_are_masked_without_knowing_them() -> None:
    redact = Redactor()
    assert redact("at postgresql://app:hunter2@db:5432/x") == "at postgresql://app:***@db:5432/x"
    assert (
        redact("nats://u:hunter2@h, host=h password='hun ter2' user=u") == "nats://u:***@h, host=h password=*** user=u"
    )
    assert redact("nothing to hide at host:5432/db") == "nothing to hide at host:5432/db"


def test_a_short_secret_is_masked_only_where_it_stands_alone() -> None:
    assert Redactor(["ab"])("ab cab ab") == "*** cab ***"


def test_longer_secrets_are_masked_before_those_inside_them() -> None:
    assert Redactor(["pass", "password1"])("password1 pass") == "*** ***"


def test_an_empty_value_masks_nothing() -> None:
    redact = Redactor([""])
    redact.add("")
    assert redact("text") == "text"


def test_resolving_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "pw").write_text("hunter2")
    with caplog.at_level(logging.DEBUG):
        resolve({"file": "pw"}, tmp_path)
    assert caplog.text == ""
