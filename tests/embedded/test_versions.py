"""Servers of other versions run under the same classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from provision.embedded import nats, postgres


@pytest.mark.soak
@pytest.mark.parametrize("major", [15, 16, 17, 18])
def test_each_major_of_postgres_starts_and_survives_kill_9(
    major: int, postgres_of: Callable[[int], postgres.Server]
) -> None:
    server = postgres_of(major)
    server.create_database("kept")
    server.kill()
    server.start()
    assert server.query("SELECT current_setting('server_version_num')::int / 10000", "kept") == [[str(major)]]


@pytest.mark.soak
@pytest.mark.parametrize("line", ["2.10", "2.11", "2.12", "2.14", "latest"])
def test_each_line_of_nats_starts(line: str, nats_of: Callable[[str], nats.Server]) -> None:
    info = nats_of(line).info()
    assert info is not None
    assert info["jetstream"] is True
    assert line == "latest" or info["version"].startswith(line)
