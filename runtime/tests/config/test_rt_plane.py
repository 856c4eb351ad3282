"""The plane that the tests get."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from conftest import Servers


def test_a_killed_server_comes_back_with_its_data(servers: Servers, agent_id: str) -> None:
    before = servers.pid("postgres")
    try:
        servers.kill("postgres")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(**servers.admin)
    finally:
        servers.start()
    assert servers.pid("postgres") != before
    with psycopg.connect(**servers.admin) as connection:
        found = connection.execute("SELECT count(*) FROM agents.registry WHERE agent_id = %s", [agent_id]).fetchone()
    assert found == (1,)
