"""Two stacks of this repository's program in one backend: each has its servers and its templates, and keeps to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import psycopg
import pytest

from provision.embedded.nats import Cluster
from provision.embedded.postgres import Server
from tests.acceptance.plane import requester
from tests.nats.operators import Operator
from tests.pulumi.stack import Json, Stack, whole

TAGS = ("agent-state", "task-execution", "messaging", "session-data", "configuration", "cache")
SECOND = 10**9
GIB, MIB = 2**30, 2**20
#: postgres_max, postgres_min, jetstream_max, acquire: of the source documents.
TEMPLATES = {"dev": (5, 1, 2, 10), "staging": (10, 2, 5, 20)}
ROLES = ("primary", "replica", "background", "analytics")
#: Everything that a plane could have left on a server.
TRACES = (
    "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema|public)' UNION ALL"
    " SELECT rolname FROM pg_roles WHERE rolname ~ '^(app|plane)_' ORDER BY 1"
)


class Stacks(NamedTuple):
    """Both stacks, in one folder and one backend."""

    dev: Stack
    staging: Staging


class Staging(Stack):
    """The stack ``staging`` of a project that is there, on servers that ask for credentials."""

    def __init__(self, root: Path, postgres: Server, nats: Cluster, operator: Operator) -> None:
        super().__init__(root, "staging")
        postgres.create_database("mister_smith")
        self.database = postgres.dsn("mister_smith")
        self.creds = root.parent / "staging.creds"
        seed = operator.credentials(self.creds)
        where = f"{self.database['host']}:{self.database['port']}"
        password = str(self.database["password"])
        passwords = {f"{role.upper()}_DB_PASSWORD": f"staging-{role}-s3cret" for role in ROLES}
        self.variables |= {
            "PULUMI_STACK": "staging",
            "STAGING_NATS_SERVERS": ",".join(nats.urls),
            "STAGING_NATS_CREDS_FILE": str(self.creds),
            "STAGING_PG_DSN": f"postgresql://{self.database['user']}:{quote(password, safe='')}@{where}/mister_smith",
            **{f"STAGING_{name}_PG_HOST": where for name in ("PRIMARY", "REPLICA", "ANALYTICS")},
            **passwords,
        }
        self.secrets |= {seed, password, *passwords.values()}
        self.url = nats.urls[0]

    def stream(self, name: str) -> Json:
        """The configuration of a stream, asked by a user with credentials."""
        return asyncio.run(_ask(self.url, self.creds, f"$JS.API.STREAM.INFO.{name}"))


async def _ask(url: str, creds: Path, subject: str) -> Json:
    from nats.aio.client import Client

    client = Client()
    await client.connect(url, user_credentials=str(creds))
    try:
        answer: Json = json.loads((await client.request(subject, b"", timeout=10)).data)
        return answer
    finally:
        await client.close()


@pytest.fixture
def stacks(server_root: Path) -> Iterator[Stacks]:
    """Both stacks, made and brought up side by side."""
    operator = Operator()
    config = {**operator.config, "max_payload": 8 * MIB, "jetstream": {"sync_interval": "1m"}}
    postgres = Server(server_root / "staging-postgres", settings={"max_connections": 100}, fsync=False)
    cluster = Cluster(server_root / "staging-nats", name="nats-cluster", tags=[TAGS] * 3, config=config)
    with whole(server_root / "stacks") as dev, postgres, cluster:
        staging = Staging(dev.root, postgres, cluster, operator)
        staging.run("stack", "init", "staging")
        dev.variables["PULUMI_STACK"] = "dev"
        both = Stacks(dev, staging)
        with ThreadPoolExecutor() as pool:
            for made in pool.map(Stack.up, both):
                assert set(made.counts) == {"created"}
        yield both


def contract(stack: Stack) -> dict[str, Any]:
    """The content of the contract, as the last up wrote it."""
    content: dict[str, Any] = json.loads(stack.resources()["plane:main/contract"]["outputs"]["content"])
    return content


def essence(stack: Stack) -> dict[str, Any]:
    """What the state says of each object."""
    return {address: (found["inputs"], found["outputs"]) for address, found in stack.resources().items()}


@pytest.mark.req("A4.9", "B3.2", "B3.3")
@pytest.mark.timeout(400)
def test_two_stacks_of_one_backend_keep_apart(stacks: Stacks) -> None:
    """One test, for two workers would make the stacks twice."""
    a_second_up_of_either_has_nothing_to_do(stacks)
    for env in TEMPLATES:
        each_stack_has_the_templates_of_its_environment(stacks, env)
    each_stack_has_the_sizes_of_its_environment(stacks)
    no_stack_holds_a_secret(stacks)
    neither_stack_touches_the_other(stacks)


def a_second_up_of_either_has_nothing_to_do(stacks: Stacks) -> None:
    with ThreadPoolExecutor() as pool:
        assert all(result.is_unchanged for result in pool.map(Stack.up, stacks))
        assert all(result.is_unchanged for result in pool.map(Stack.refresh, stacks))
    assert all(stack.plan_is_empty() for stack in stacks)


def each_stack_has_the_templates_of_its_environment(stacks: Stacks, env: str) -> None:
    top, bottom, jetstream, acquire = TEMPLATES[env]
    found = contract(getattr(stacks, env))
    assert (found["plane"], found["env"]) == ("agents", env)
    assert found["pools"]["primary"]["max"] == top
    assert found["pools"]["primary"]["min"] == bottom
    assert found["limits"]["jetstream_max_connections"] == jetstream
    assert {pool["acquire_timeout"] for pool in found["pools"].values()} == {acquire * SECOND}


def each_stack_has_the_sizes_of_its_environment(stacks: Stacks) -> None:
    ask = requester(stacks.dev.url)
    development = ask("$JS.API.STREAM.INFO.TASK_EXECUTION")["config"]
    staging = stacks.staging.stream("TASK_EXECUTION")["config"]
    assert (development["num_replicas"], development["max_bytes"]) == (1, 256 * MIB)
    assert (staging["num_replicas"], staging["max_bytes"]) == (3, 4 * GIB)
    assert staging["placement"] == {"cluster": "nats-cluster", "tags": ["task-execution"]}
    assert "placement" not in development


def no_stack_holds_a_secret(stacks: Stacks) -> None:
    secrets = stacks.dev.secrets | stacks.staging.secrets
    assert len(secrets) >= 10
    files = [path for path in (stacks.dev.root / "state").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"dev.json", "staging.json"}
    assert [(path.name, s) for path in files for s in secrets if s.encode() in path.read_bytes()] == []
    for stack in stacks:
        told = json.dumps([stack.state(), stack.outputs()])
        assert not [s for s in secrets if s in told]


def neither_stack_touches_the_other(stacks: Stacks) -> None:
    dev, staging = stacks
    assert contract(dev)["digest"] != contract(staging)["digest"]
    assert staging.stream("KV_HOLDFAST")["state"]["messages"]
    assert set(dev.resources()) == set(staging.resources())
    assert json.dumps(dev.state()).count("STAGING_") == 0
    before = essence(dev), dev.sql(TRACES)

    staging.edit("TASK_EXECUTION: {max_bytes: 4GiB}", "TASK_EXECUTION: {max_bytes: 5GiB}", "environments/staging.yaml")
    assert staging.changes().keys() == {"plane/TASK_EXECUTION", "plane/agents"}
    assert dev.changes() == {}
    staging.up()
    assert staging.stream("TASK_EXECUTION")["config"]["max_bytes"] == 5 * GIB

    staging.destroy()
    assert staging.resources() == {}
    assert dev.up().is_unchanged
    assert dev.plan_is_empty()
    assert (essence(dev), dev.sql(TRACES)) == before
    assert contract(dev)["env"] == "dev"
    with psycopg.connect(**staging.database) as connection:
        assert connection.execute(TRACES.encode()).fetchall() == before[1]
