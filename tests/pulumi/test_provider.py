"""The provider asked directly, on real servers, and what the component registers with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pulumi
import pytest
from pulumi.runtime import mocks, rpc

from provision.pulumi.plane import Plane
from provision.pulumi.protocol import (
    CheckRequest,
    CreateRequest,
    DeleteRequest,
    Difference,
    DiffRequest,
    Failure,
    PartialFailure,
    ReadRequest,
    UpdateRequest,
)
from provision.pulumi.provider import ConsentRefused, Provider
from provision.reconcile.parts import TYPES
from provision.spec.errors import HoldfastError, OperationError
from tests.live.drift_bed import raw
from tests.pulumi.stack import Small

Json = dict[str, Any]
NOWHERE = {"kind": "external", "urls": ["nats://127.0.0.1:1"]}
EVENTS: Json = {"name": "EVENTS", "subjects": ["events.>"], "max_age": "1h", "max_bytes": "1MiB"}
ITEM: Json = {"columns": {"id": {"type": "bigint", "nullable": False}}, "primary_key": ["id"]}


class Screen:
    """Keeps the lines for whoever runs Pulumi."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, urn: str = "") -> None:
        self.lines.append(text)

    def warn(self, text: str, urn: str = "") -> None:
        self.lines.append(text)


class Asked:
    """A provider with the requests of an engine, in short."""

    def __init__(self, cache: Path, targets: Json, allow: tuple[str, ...], env: str, engine: str) -> None:
        self.screen = Screen()
        self.provider = Provider(self.screen, engine, cache=cache)
        config = {"plane": "asked", "env": env, "root": str(cache), "targets": targets, "allow": list(allow)}
        assert self.provider.check_config(config, frozenset()).failures == ()
        self.provider.configure(config)

    def check(self, type: str, **news: Any) -> tuple[Failure, ...]:
        return self.provider.check(CheckRequest(**_named(type), news=news)).failures

    def create(self, type: str, *, preview: bool = False, **inputs: Any) -> Json:
        return dict(self.provider.create(CreateRequest(**_named(type), inputs=inputs, preview=preview)).properties)

    def diff(self, type: str, olds: Json, **news: Any) -> Difference:
        return self.provider.diff(DiffRequest(**_named(type), id="", old_inputs=_inputs(olds), olds=olds, news=news))

    def update(self, type: str, olds: Json, **news: Any) -> Json:
        id = TYPES[type].id(_inputs(olds))
        request = UpdateRequest(**_named(type), id=id, old_inputs=_inputs(olds), olds=olds, news=news)
        return dict(self.provider.update(request))

    def read(self, type: str, id: str, olds: Json) -> Json:
        request = ReadRequest(**_named(type), id=id, inputs=_inputs(olds), properties=olds)
        found = self.provider.read(request)
        assert found is not None
        assert found.id == id
        return dict(found.properties)

    def delete(self, type: str, olds: Json) -> None:
        id = TYPES[type].id(_inputs(olds))
        self.provider.delete(DeleteRequest(**_named(type), id=id, old_inputs=_inputs(olds), properties=olds))


def _named(type: str) -> Any:
    return {"urn": f"urn:{type}", "type": f"holdfast:index:{type}", "name": type}


def _inputs(properties: Json) -> Json:
    return {k: v for k, v in properties.items() if k not in ("address", "part", "plan", "content", "imported")}


class Desk:
    """Makes providers for the servers at hand; they end with the test."""

    def __init__(self, cache: Path, postgres: Json, url: str, open: ExitStack) -> None:
        self.cache = cache
        self.postgres = postgres
        self.targets: Json = {
            "postgres": {"main": postgres}, "nats": {"main": {"kind": "external", "urls": [url]}}
        }  # fmt: skip
        self._open = open

    def provider(
        self, targets: Json | None = None, *, allow: tuple[str, ...] = (), env: str = "dev", engine: str = ""
    ) -> Asked:
        made = Asked(self.cache, targets or self.targets, allow, env, engine)
        self._open.callback(made.provider.close)
        return made


@pytest.fixture
def database(pg_database: Json, monkeypatch: pytest.MonkeyPatch) -> Json:
    monkeypatch.setenv("PG_SECRET", str(pg_database["password"]))
    monkeypatch.setenv("APP_PASSWORD", "s3cret-of-app")
    return pg_database


@pytest.fixture
def desk(tmp_path: Path, database: Json, nats_url: str) -> Iterator[Desk]:
    """The servers of one plane."""
    postgres = {
        "kind": "external", "host": database["host"], "port": database["port"], "user": database["user"],
        "password": {"env": "PG_SECRET"}, "database": database["dbname"],
    }  # fmt: skip
    with ExitStack() as open:
        yield Desk(tmp_path, postgres, nats_url, open)


def ask(database: Mapping[str, Any], statement: str) -> list[tuple[Any, ...]]:
    """Run SQL behind the plane's back."""
    with psycopg.connect(**database, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


# What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.req("B3.1")
def test_a_target_that_the_provider_lacks_is_refused_at_the_input(desk: Desk) -> None:
    asked = desk.provider()
    for type, inputs in (("Stream", EVENTS), ("Role", {"name": "app"}), ("PostgresDatabase", {"schemas": {}})):
        (failure,) = asked.check(type, **{**inputs, "target": "edge"})
        assert failure.pointer == ("target",)
        assert "edge" in failure.reason
        assert asked.check(type, **inputs) == ()


@pytest.mark.req("B3.1")
def test_a_provider_without_targets_is_refused(tmp_path: Path) -> None:
    given: tuple[Json, ...] = ({}, {"targets": {}}, {"targets": None})
    for targets in given:
        config = {"plane": "asked", "env": "dev", **targets}
        (failure,) = Provider(Screen(), cache=tmp_path).check_config(config, frozenset()).failures
        assert failure.pointer == ("targets",)


@pytest.mark.req("B3.1")
def test_a_preview_of_what_the_servers_refuse_fails_with_the_reason(desk: Desk, nats_url: str) -> None:
    with raw(nats_url) as link:
        config = {"name": "EVENTS", "subjects": ["events.>"], "metadata": {"holdfast_plane": "another"}}
        link.do("STREAM.CREATE.EVENTS", config)
    asked = desk.provider()
    with pytest.raises(OperationError, match="nats:main/stream/EVENTS belongs to plane another"):
        asked.create("Stream", preview=True, **EVENTS)
    with pytest.raises(OperationError, match="belongs to plane another"):
        asked.create("Stream", **EVENTS)
    assert asked.screen.lines == []
    assert asked.create("KeyValueBucket", preview=True, name="STATE", max_bytes="1MiB")["plan"]


@pytest.mark.req("B3.1")
def test_a_preview_without_servers_passes_and_says_so_once(desk: Desk) -> None:
    asked = desk.provider({"nats": {"main": NOWHERE}})
    with ThreadPoolExecutor(4) as pool:
        tries = [pool.submit(asked.create, "Stream", preview=True, **{**EVENTS, "name": f"S{n}"}) for n in range(4)]
    assert [t.result()["address"] for t in tries] == [f"nats:main/stream/S{n}" for n in range(4)]
    (line,) = asked.screen.lines
    assert "steps and live counts are missing" in line


@pytest.mark.req("B3.1")
@pytest.mark.parametrize("env", ["dev", "e" * 63])
@pytest.mark.parametrize("systems", [("nats", "postgres"), ("nats",)])
def test_a_second_provider_of_the_same_run_is_sent_to_the_planes_own(
    desk: Desk, env: str, systems: tuple[str, ...]
) -> None:
    targets = {system: desk.targets[system] for system in systems}
    first, second = (desk.provider(targets, env=env, engine="127.0.0.1:34567") for _ in range(2))
    first.create("Stream", **EVENTS)
    with pytest.raises(OperationError) as refused:
        second.create("Stream", **{**EVENTS, "name": "MORE", "subjects": ["more.>"]})
    assert "Use the plane's provider" in refused.value.help
    stranger = desk.provider(targets, env=env, engine="127.0.0.1:999")
    with pytest.raises(OperationError) as refused:
        stranger.create("Stream", **{**EVENTS, "name": "MORE", "subjects": ["more.>"]})
    assert "Use the plane's provider" not in refused.value.help


# What is kept ---------------------------------------------------------------------------------------------------


def reached(url: str) -> Json:
    """Targets as the contract has them."""
    return {"nats": {"main": {"kind": "external", "urls": [url]}}, "postgres": {}}


@pytest.mark.req("B3.1")
def test_other_ways_to_the_servers_reach_the_contract(desk: Desk, nats_url: str) -> None:
    port = nats_url.rpartition(":")[2]
    asked = desk.provider()
    stream = asked.create("Stream", **EVENTS)
    parts = {stream["address"]: stream["part"]}
    first = asked.create("Contract", parts=parts, targets=reached(nats_url))
    assert json.loads(first["content"])["targets"] == first["targets"]
    other = reached(f"nats://localhost:{port}")
    change = asked.diff("Contract", first, parts=parts, targets=other)
    assert [(c.pointer, c.kind, c.replace) for c in change.detailed] == [(("targets",), "update", False)]
    second = asked.update("Contract", first, parts=parts, targets=other)
    assert json.loads(second["content"])["targets"] == other
    assert json.loads(asked.read("Contract", "plane:main/contract", second)["content"])["targets"] == other
    assert not asked.diff("Contract", second, parts=parts, targets=other).changes


@pytest.mark.req("B3.1")
def test_a_renamed_role_is_read_with_its_new_address(desk: Desk) -> None:
    asked = desk.provider()
    old = asked.create("Role", name="former", login=True)
    news = {"name": "latter", "login": True, "renamed_from": "former"}
    assert asked.diff("Role", old, **news).replaces == ()
    new = asked.update("Role", old, **news)
    found = asked.read("Role", "pg:main/role/former", new)
    assert (new["address"], found["address"]) == ("pg:main/role/latter", "pg:main/role/latter")
    assert not asked.diff("Role", found, **news).changes


@pytest.mark.req("B3.1")
def test_a_role_goes_with_the_consent_that_names_it(desk: Desk, database: Json) -> None:
    asked = desk.provider(allow=("delete:pg:main/role/app",))
    role = asked.create("Role", name="app", login=True)
    asked.delete("Role", role)
    assert ask(database, "SELECT 1 FROM pg_roles WHERE rolname = 'app'") == []
    assert ask(database, "SELECT 1 FROM holdfast.objects WHERE address LIKE 'pg:main/role/%'") == []


@pytest.mark.req("B3.1")
def test_a_role_that_others_need_stays(desk: Desk, database: Json) -> None:
    asked = desk.provider(allow=("delete:pg:main/role/app",))
    role = asked.create("Role", name="app", login=True)
    ask(database, "CREATE TABLE of_app (id int); ALTER TABLE of_app OWNER TO app")
    with pytest.raises(OperationError):
        asked.delete("Role", role)
    assert ask(database, "SELECT 1 FROM pg_roles WHERE rolname = 'app'") == [(1,)]


@pytest.mark.req("B3.1")
def test_what_a_failed_create_has_made_stays_known(desk: Desk, database: Json) -> None:
    ask(database, "CREATE SCHEMA app; CREATE TABLE app.item (id bigint PRIMARY KEY); INSERT INTO app.item VALUES (0)")
    table = {**ITEM, "indexes": {"item_odd": {"columns": ["(1 / id)"]}}}
    news: Json = {"schemas": {"app": {"tables": {"item": table, "other": ITEM}}}}
    asked = desk.provider()
    with pytest.raises(PartialFailure) as failed:
        asked.create("PostgresDatabase", **news)
    failure = failed.value
    assert failure.id == "pg:main"
    assert len(failure.reasons) == 1
    assert "division by zero" in failure.reasons[0]
    assert "other" in failure.inputs["schemas"]["app"]["tables"]
    assert failure.properties["part"]["digest"]
    state = dict(failure.properties)
    change = asked.diff("PostgresDatabase", state, **news)
    assert [c.pointer for c in change.detailed] == [("schemas", "app", "tables", "item", "indexes", "item_odd")]
    ask(database, "UPDATE app.item SET id = 1")
    whole = asked.update("PostgresDatabase", state, **news)
    assert not asked.diff("PostgresDatabase", whole, **news).changes
    assert ask(database, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'app.item_odd'::regclass") == [(True,)]


@pytest.mark.req("B3.1")
def test_the_engine_keeps_what_a_failed_create_has_made(tmp_path: Path, database: Json, nats_url: str) -> None:
    stack = Small(tmp_path, database, nats_url)
    columns = "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(50) NOT NULL"
    ask(database, f"CREATE SCHEMA app; CREATE TABLE app.owner ({columns}); INSERT INTO app.owner(name) VALUES ('')")
    stack.allow("adopt:pg:main/app/owner")
    failed = stack.up(check=False)
    assert failed.code != 0
    assert "owner_name" in failed.told
    (error,) = stack.resources()["pg:main"]["initErrors"]
    assert "owner_name" in error
    ask(database, "UPDATE app.owner SET name = 'ann'")
    assert stack.up().counts["updated"] == 1
    assert stack.up().is_unchanged
    assert stack.plan_is_empty()


@pytest.mark.req("B3.1")
def test_a_create_that_made_nothing_leaves_nothing_in_the_state(desk: Desk, database: Json) -> None:
    ask(database, "CREATE SCHEMA app; CREATE TABLE app.item (id bigint PRIMARY KEY); INSERT INTO app.item VALUES (0)")
    check: Json = {"schemas": {"app": {"tables": {"item": {**ITEM, "comment": "Ours"}}}}}
    asked = desk.provider()
    with pytest.raises(ConsentRefused):
        asked.create("PostgresDatabase", **check)
    with pytest.raises(HoldfastError) as failed:
        asked.create("Role", name="app", member_of=["nobody_at_all"])
    assert not isinstance(failed.value, PartialFailure)


# What the component registers -----------------------------------------------------------------------------------

SPECS: Json = {
    "plane": "small",
    "streams": {"EVENTS": {"subjects": ["events.>"], "max_age": "1h", "max_bytes": "1MiB"}},
    "roles": {"app": {"login": True, "connection_limit": 20}, "other": {}},
    "schemas": {"app": {"tables": {"item": ITEM, "more": ITEM}}},
}


class Registered(NamedTuple):
    """A resource as the engine would hear of it."""

    inputs: Json
    is_retained: bool
    aliases: list[str]


class Monitor(mocks.MockMonitor):
    """Keeps what the program registers, by name, and answers as the provider would."""

    def __init__(self) -> None:
        super().__init__(Answers())
        self.found: dict[str, Registered] = {}

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802
        inputs: Any = rpc.deserialize_properties(request.object)
        aliases = [alias.spec.name for alias in request.aliases]
        self.found[request.name] = Registered(inputs, request.retainOnDelete, aliases)
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]


class Answers(mocks.Mocks):
    """Outputs of resources that nobody makes."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        if not args.custom:
            return args.name, args.inputs
        told = {"address": args.name, "part": {"digest": "0", "entries": {}}, "plan": [], "content": "{}"}
        return args.name, {**args.inputs, **told}

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"the program calls {args.token}")


class Program:
    """A program with a plane of these specs."""

    def __init__(self, root: Path) -> None:
        self.specs = root / "specs"
        self.outputs: Json = {}

    def run(self, document: Json, declared: Json, **options: Any) -> dict[str, Registered]:
        (self.specs / "environments").mkdir(parents=True, exist_ok=True)
        (self.specs / "plane.yaml").write_text(json.dumps(document))
        (self.specs / "environments" / "dev.yaml").write_text(json.dumps({"targets": declared}))
        monitor = Monitor()
        mocks.set_mocks(Answers(), project="small", stack="dev", monitor=monitor)

        def program() -> Any:
            plane = Plane("plane", self.specs, "dev", **options)
            return plane.connections.apply(lambda found: self.outputs.update(connections=found))

        pulumi.runtime.test(program)()  # type: ignore[no-untyped-call]
        return monitor.found


@pytest.fixture
def program(tmp_path: Path, program_loop: None, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return Program(tmp_path)


POSTGRES = {"kind": "external", "host": "db.example", "port": 5432, "user": "ann", "max_connections": 50}
TARGETS = {"postgres": {"main": POSTGRES}, "nats": {"main": {"kind": "external", "urls": ["nats://one:4222"]}}}


@pytest.mark.req("B3.1", "B3.2")
def test_what_lies_over_the_targets_reaches_provider_connections_and_contract(program: Program) -> None:
    over = {"nats": {"main": {"urls": pulumi.Output.from_input(["nats://two:4222"])}}}
    found = program.run(SPECS, TARGETS, targets=over)
    reach = {
        "nats": {"main": {"kind": "external", "urls": ["nats://two:4222"]}},
        "postgres": {"main": {"kind": "external", "host": "db.example", "port": 5432, "mode": "direct"}},
    }
    assert program.outputs["connections"] == reach
    assert found["plane/small"].inputs["targets"] == reach
    given = found["plane"].inputs["targets"]
    told = json.loads(given) if isinstance(given, str) else given
    assert told["nats"]["main"]["urls"] == ["nats://two:4222"]
    assert told["postgres"]["main"]["user"] == "ann"


def kept(found: Mapping[str, Registered]) -> set[str]:
    return {name.removeprefix("plane/") for name, r in found.items() if r.is_retained}


@pytest.mark.req("B3.1")
@pytest.mark.parametrize(
    ("allow", "leaves"),
    [
        ((), set()),
        (("data_loss:pg:main/app/item",), set()),
        (("data_loss:pg:main/app/item", "data_loss:pg:main/app/more"), {"main"}),
        (("data_loss:nats:main/stream/EVENTS",), {"EVENTS"}),
        (("delete:pg:main/role/app",), {"app"}),
        (("adopt:pg:main/role/app",), set()),
    ],
)
def test_only_what_is_named_may_go(program: Program, allow: tuple[str, ...], leaves: set[str]) -> None:
    found = program.run(SPECS, TARGETS, allow=allow)
    assert kept(found) == {"EVENTS", "main", "app", "other"} - leaves


@pytest.mark.req("B3.1")
def test_at_another_target_too_only_what_is_named_may_go(program: Program) -> None:
    placed = {
        **SPECS,
        "roles": {name: {**node, "target": "edge"} for name, node in SPECS["roles"].items()},
        "schemas": {name: {**node, "target": "edge"} for name, node in SPECS["schemas"].items()},
    }
    targets = {**TARGETS, "postgres": {"main": POSTGRES, "edge": POSTGRES}}
    one = program.run(placed, targets, allow=["data_loss:pg:edge/app/item"])
    assert kept(one) == {"EVENTS", "edge", "edge/app", "edge/other"}
    both = program.run(placed, targets, allow=["data_loss:pg:edge/app/item", "data_loss:pg:edge/app/more"])
    assert kept(both) == {"EVENTS", "edge/app", "edge/other"}


@pytest.mark.req("B3.1")
@pytest.mark.parametrize("target", ["main", "edge"])
def test_renamed_objects_have_their_former_names_as_aliases(program: Program, target: str) -> None:
    columns = {"id": {"type": "bigint", "nullable": False}, "at": {"type": "timestamptz", "nullable": False}}
    rolling = {"columns": columns, "primary_key": ["id", "at"], "renamed_from": "diary",
               "partitions": {"by": "range", "key": ["at"], "every": "1 day", "premake": 3}}  # fmt: skip
    placed = {} if target == "main" else {"target": target}
    schema = {"tables": {"log": rolling}, "renamed_from": "old", **placed}
    document = {"plane": "small", "schemas": {"app": schema},
                "roles": {"app": {"renamed_from": "former", **placed}}}  # fmt: skip
    targets = {**TARGETS, "postgres": {"main": POSTGRES, "edge": POSTGRES}}
    found = program.run(document, targets)
    above = "plane/" if target == "main" else "plane/edge/"
    assert found[f"{above}app"].aliases == [f"{above}former"]
    assert found[f"{above}app.log"].aliases == [f"{above}old.diary"]
