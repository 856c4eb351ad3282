"""The forms of JetStream, without a server."""

from __future__ import annotations

import base64

import pytest

from holdfast.errors import CodecError, ConfigurationError
from holdfast.kv import messages
from holdfast.kv.entry import Position


@pytest.mark.req("D2.5")
def test_positions_of_a_later_incarnation_win_whatever_their_revisions() -> None:
    assert Position(2, 1) > Position(1, 900)
    assert Position.parse(str(Position(1763750000123456789, 7))) == Position(1763750000123456789, 7)


@pytest.mark.parametrize("key", ["agent.1", "a-b/c_d=e", "A.b.C"])
def test_keys_that_nats_takes(key: str) -> None:
    assert messages.check_key(key) == key


@pytest.mark.parametrize("key", ["agent:1", "", ".a", "a.", "a..b", "a b", "a.*", "a.>", "a\r\nb", "é", "a\n"])
def test_keys_that_nats_does_not_take(key: str) -> None:
    with pytest.raises(CodecError, match="is no key"):
        messages.check_key(key)


@pytest.mark.parametrize("pattern", [">", "*", "a.>", "a.*.c", "a"])
def test_filters(pattern: str) -> None:
    assert messages.check_filter(pattern) == pattern


@pytest.mark.parametrize("pattern", ["a.>.b", "a.b>", "", "a..b", "*a"])
def test_no_filters(pattern: str) -> None:
    with pytest.raises(CodecError):
        messages.check_filter(pattern)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("2026-11-21T19:00:00.5Z", 1795287600_500_000_000),
        ("2026-11-21T19:00:00.123456789Z", 1795287600_123_456_789),
        ("2026-11-21T20:00:00.000000001+01:00", 1795287600_000_000_001),
    ],
)
def test_times_keep_every_nanosecond(text: str, expected: int) -> None:
    assert messages.nanoseconds(text) == expected


def test_a_time_to_live_is_rounded_up_to_whole_seconds() -> None:
    assert [messages.ttl_text(life) for life in (0.2, 1, 1.5, 1800)] == ["1s", "1s", "2s", "1800s"]
    for life in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError):
            messages.ttl_text(life)


def test_both_forms_of_a_delivery() -> None:
    old = messages.delivery_of("$JS.ACK.KV_B.c.1.44.7.1700000000000000001.9")
    new = messages.delivery_of("$JS.ACK.hub.AbC.KV_B.c.1.44.7.1700000000000000001.9.tok")
    assert old == new == messages.Delivery(44, 7, 1700000000000000001, 9)
    assert messages.delivery_of("_INBOX.a.b") is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "put"),
        ({"KV-Operation": "DEL"}, "delete"),
        ({"KV-Operation": "PURGE"}, "delete"),
        ({"Nats-Marker-Reason": "MaxAge"}, "expired"),
        ({"Nats-Marker-Reason": "Remove"}, "delete"),
    ],
)
def test_what_a_message_means(headers: dict[str, str], expected: str) -> None:
    raw = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    stored = {
        "subject": "$KV.B.a.b",
        "seq": 3,
        "time": "2026-11-21T19:00:00Z",
        "hdrs": base64.b64encode(raw.encode()).decode(),
        "data": base64.b64encode(b"v").decode(),
    }
    entry = messages.entry_of_stored(stored, len("$KV.B."), 5)
    assert (entry.key, entry.operation, entry.position) == ("a.b", expected, Position(5, 3))
    assert entry.value == (b"v" if expected == "put" else None)
    assert dict(entry.headers) == headers


def test_a_refusal_tells_the_sequence() -> None:
    refused = messages.refusal({"error": {"code": 400, "err_code": 10071, "description": "wrong last sequence: 12"}})
    assert refused is not None
    assert (refused.code, refused.sequence, refused.is_passing) == (10071, 12, False)
    assert messages.refusal({"seq": 1}) is None
