"""The contract as the library reads it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nats
import pytest

import holdfast
from holdfast.contract import Contract, fetch_contract
from holdfast.errors import ConfigurationError, ConnectionFailed, ContractMismatch, HoldfastError

SMALL: dict[str, Any] = {
    "contract_version": "1.0",
    "plane": "agents",
    "env": "dev",
    "digest": "sha256:0",
    "targets": {"nats": {}, "postgres": {"main": {"kind": "embedded"}}},
    "names": {"state_bucket": "STATE"},
    "limits": {"lease_ttl": 1_500_000_000, "flush_dirty_keys": 7},
    "pools": {"primary": {"target": "main", "role": "app", "min": 1, "max": 3, "acquire_timeout": 250_000_000,
                          "database": None}},
    "roles": {"app": {"target": "main", "password": None}},
    "streams": {"EVENTS": {"target": "main", "subjects": ["a.>"], "max_age": 60_000_000_000}},
    "buckets": {"STATE": {"target": "main", "ttl": 1_800_000_000_000, "journal": "J", "allow_msg_ttl": True}},
    "templates": {},
    "publishers": {"p": {"target": "main", "subjects": ["a.*"]}},
}  # fmt: skip


def with_(**changed: Any) -> str:
    return json.dumps({**SMALL, **changed})


def test_durations_become_seconds_and_defaults_fill_gaps() -> None:
    contract = Contract.parse(with_())
    assert contract.limits.lease_ttl == 1.5
    assert contract.limits.flush_dirty_keys == 7
    assert contract.limits.flush_interval == 0.1
    assert contract.pools["primary"].acquire_timeout == 0.25
    assert contract.pools["primary"].statement_cache_capacity == 100
    assert contract.buckets["STATE"].ttl_s == 1800
    assert contract.buckets["STATE"].journal == "J"
    assert contract.streams["EVENTS"].max_age_s == 60
    assert contract.streams["EVENTS"].subjects == ("a.>",)


def test_the_same_major_is_read_and_unknown_keys_are_ignored() -> None:
    pool = {**SMALL["pools"]["primary"], "colour": "red"}
    contract = Contract.parse(with_(contract_version="1.7", pools={"primary": pool}, moods={}, limits={"mood": 3}))
    assert contract.version == "1.7"
    assert contract.pools["primary"].max == 3


def test_another_major_is_refused_with_both_versions() -> None:
    with pytest.raises(ContractMismatch, match=r"version 2\.3.* reads 1\.0"):
        Contract.parse(with_(contract_version="2.3"))


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        "{}",
        with_(names=None),
        with_(limits={"lease_ttl": "30s"}),
        with_(limits={"max_attempts": True}),
        with_(pools={"primary": {"target": "main"}}),
        json.dumps({"contract_version": "1.0"}),
    ],
)
def test_what_is_no_contract_is_refused(text: str) -> None:
    with pytest.raises(ContractMismatch):
        Contract.parse(text)


def test_a_name_that_is_not_declared_is_asked_for_by_name() -> None:
    contract = Contract.parse(with_())
    assert contract.names.state_bucket == "STATE"
    assert "state_bucket" in contract.names
    assert "inbox_table" not in contract.names
    with pytest.raises(ConfigurationError, match="inbox_table"):
        _ = contract.names.inbox_table
    with pytest.raises(ConfigurationError, match="no bucket NONE; it has STATE"):
        contract.bucket("NONE")


def fetched(environ: Mapping[str, str], plane: str, env: str) -> Contract:
    async def read() -> Contract:
        client = await nats.connect(environ["NATS_SERVERS"], connect_timeout=5)
        try:
            return await fetch_contract(client, plane, env)
        finally:
            await client.close()

    return asyncio.run(read())


@pytest.mark.req("D13.2", "D9.6")
def test_the_contract_of_the_plane_is_fetched_from_its_servers(environ: Mapping[str, str]) -> None:
    contract = fetched(environ, environ["HOLDFAST_PLANE"], environ["HOLDFAST_ENV"])
    assert contract.buckets[contract.names.state_bucket].journal == contract.names.flush_stream
    assert contract.names.state_table == "agents.state"
    assert set(contract.pools) == {"primary", "replica", "background", "analytics"}
    assert {spec.role for spec in contract.pools.values()} == set(contract.roles)


@pytest.mark.parametrize(("plane", "env"), [("agents", "elsewhere"), ("other", "dev")])
def test_without_a_contract_it_says_what_to_do(environ: Mapping[str, str], plane: str, env: str) -> None:
    with pytest.raises(ContractMismatch, match=rf"no contract of plane {plane} in .* {env}: .*holdfast apply"):
        fetched(environ, plane, env)


def test_a_closed_connection_is_told_as_such(environ: Mapping[str, str]) -> None:
    async def read() -> None:
        client = await nats.connect(environ["NATS_SERVERS"], connect_timeout=5)
        await client.close()
        with pytest.raises(ConnectionFailed):
            await fetch_contract(client, "agents", "dev")

    asyncio.run(read())


def test_errors_hold_no_driver_text() -> None:
    with pytest.raises(HoldfastError) as caught:
        Contract.parse(b"\xff")
    assert caught.value.__cause__ is None


def test_importing_the_library_is_quick_and_loads_no_driver() -> None:
    code = (
        "import sys, time; t = time.process_time(); import holdfast, holdfast.contract, holdfast.settings;"
        "print(time.process_time() - t, 'nats' in sys.modules, 'psycopg' in sys.modules)"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(holdfast.__file__).parents[1])}
    seen = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
        took, *loaded = done.stdout.split()
        assert loaded == ["False", "False"]
        seen.append(float(took))
    assert min(seen) < 0.1, seen
