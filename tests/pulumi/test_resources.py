"""Our classes register what the schema says. Pulumi's mocks stand for the engine: no provider is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks

from provision import __version__
from provision.pulumi import classes, inputs, resources, schema

PACKAGE = schema.package()
TOKENS = list(PACKAGE["resources"])
FOLDER = Path(classes.__file__).parent


class Engine(mocks.Mocks):
    """Keeps what is registered, and answers as the provider would, numbers as doubles."""

    def __init__(self) -> None:
        self.seen: dict[str, mocks.MockResourceArgs] = {}

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        self.seen[args.name] = args
        outputs: dict[Any, Any] = {"address": f"at:{args.name}", "part": {"digest": "0", "entries": "{}"}, "plan": []}
        if args.resource_id:  # what is read has no inputs
            outputs |= {"name": "READ", "replicas": 3.0}
        return args.resource_id or args.name, {**args.inputs, **outputs}

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        return {}, None


@pytest.fixture
def run(program_loop: None) -> Callable[[Callable[[], Any]], Engine]:
    """Runs a program to its end, as a stack would."""

    def run(program: Callable[[], Any]) -> Engine:
        engine = Engine()
        mocks.set_mocks(engine, project="proj", stack="dev", preview=False)
        pulumi.runtime.test(program)()  # type: ignore[no-untyped-call]
        return engine

    return run


def values(output: pulumi.Output[Any]) -> list[Any]:
    """The value of an output, once the program is through."""
    found: list[Any] = []
    output.apply(found.append)
    return found


def class_of(token: str) -> Any:
    return getattr(resources, token.rpartition(":")[2])


def test_the_committed_classes_are_those_that_the_schema_gives() -> None:
    made = classes.files()
    assert {path: (FOLDER / path).read_text(encoding="utf-8") for path in made} == made, "make generate"
    assert {f"inputs/{path.name}" for path in (FOLDER / "inputs").glob("*.py")} == made.keys() - {"resources.py"}


def test_every_type_of_the_schema_has_a_name_in_python() -> None:
    arguments = {f"{token.rpartition(':')[2]}Args" for token in (*TOKENS, "Provider")}
    assert set(inputs.__all__) == {token.rpartition(":")[2] for token in PACKAGE["types"]} | arguments


@pytest.mark.req("B3.1")
@pytest.mark.parametrize("token", TOKENS)
def test_a_class_takes_the_inputs_of_its_resource_and_has_its_outputs(token: str) -> None:
    spec, arguments = PACKAGE["resources"][token], getattr(inputs, f"{token.rpartition(':')[2]}Args")
    assert arguments.__required_keys__ == set(spec["requiredInputs"])
    assert arguments.__required_keys__ | arguments.__optional_keys__ == spec["inputProperties"].keys()
    assert list(class_of(token).__annotations__) == list(spec["properties"])


@pytest.mark.parametrize("token", [t for t in TOKENS if PACKAGE["resources"][t]["requiredInputs"]])
def test_a_missing_input_is_named_before_anything_is_registered(token: str) -> None:
    required = PACKAGE["resources"][token]["requiredInputs"]
    with pytest.raises(TypeError) as refused:
        class_of(token)("x")
    assert str(refused.value) == f"{token.rpartition(':')[2]} lacks {', '.join(sorted(required))}"


def test_a_misspelt_argument_is_told_with_the_near_one() -> None:
    arguments: dict[str, Any] = {"name": "T", "max_agee": "1d"}
    with pytest.raises(TypeError, match=r"Stream has no argument 'max_agee'. Did you mean max_age\?"):
        resources.Stream("x", **arguments)
    with pytest.raises(TypeError, match="Provider lacks env"):
        resources.Provider("x", plane="agents")  # type: ignore[call-arg]


def program() -> dict[str, pulumi.Output[Any]]:
    """A whole plane by hand, as typed as a user's."""
    provider = resources.Provider(
        "agents",
        plane="agents",
        env="dev",
        targets={"nats": {"main": {"kind": "external", "urls": {"env": "NATS_URL"}}}},
        allow=["data_loss:nats:main/stream/TASKS"],
        secrets={"PRIMARY_DB_PASSWORD": "hunter2"},
    )
    opts = pulumi.ResourceOptions(provider=provider)
    tasks = resources.Stream(
        "tasks", opts, name="TASKS", subjects=["tasks.>"], retention="limits", max_age="1d", replicas=3,
        placement={"cluster": "c1", "tags": ["ssd"]}, mirror=None,
        sources=[{"name": "OLD", "external": {"api": "$JS.hub.API"}}],
    )  # fmt: skip
    bucket = resources.KeyValueBucket("state", opts, name="STATE", ttl="30m", history=5, stream={"discard": "new"})
    store = resources.ObjectStore("files", opts, name="FILES", max_bytes="1GiB")
    worker = resources.Consumer(
        "worker", opts, name="worker", stream=tasks.name, ack_policy="explicit", backoff=["1s", 0]
    )
    role = resources.Role(
        "app", opts, name="app", login=True, password={"env": "PRIMARY_DB_PASSWORD"},
        member_of=["readers", {"role": "writers", "admin": True}], settings={"statement_timeout": "30s"},
    )  # fmt: skip
    state: inputs.Table = {
        "columns": {"id": {"type": "uuid", "nullable": False}, "n": {"type": "bigint", "default": 1}},
        "primary_key": ["id"],
        "checks": {"positive": "n > 0", "small": {"expression": "n < 10", "validated": False}},
        "indexes": {"by_n": ["n"], "by_both": {"columns": ["n", {"column": "id", "order": "desc"}], "where": "n > 1"}},
        "partitions": {"by": "hash", "key": ["id"], "modulus": 8},
        "policies": {"own": {"for": "select", "using": "true"}},
        "grants": {"app": ["SELECT"], "boss": {"privileges": ["ALL"], "grantable": True}},
    }
    database = resources.PostgresDatabase(
        "db", opts, extensions={"pgcrypto": {}},
        grants=[{"on": "database", "to": role.name, "privileges": ["CONNECT"]}],
        schemas={"agents": {"enums": {"status": ["idle", "busy"]}, "tables": {"state": state}}},
    )  # fmt: skip
    events = resources.PartitionSet("events", opts, schema="agents", table="events", every="1 day", default=False)
    pool = resources.Pool("primary", opts, name="primary", role=role.name, max=20)
    parts = {"tasks": tasks.part, "db": database.part, "pool": pool.part}
    contract = resources.Contract(
        "contract", opts, parts=parts, runtime={"state_bucket": bucket.name, "lease_ttl": "30s"},
        templates={"TASKS": {"templates": {"tail": {"deliver_policy": "new"}}}},
    )  # fmt: skip
    known = {"store": store.address, "worker": worker.stream, "events": events.every, "contract": contract.address}
    return {**known, "replicas": tasks.replicas, "history": bucket.history, "member_of": role.member_of}


def mistakes() -> None:
    """Never run: the type checker finds each of them, and complains about a comment when it no longer does."""
    resources.Stream("x")  # type: ignore[call-arg]
    resources.Stream("x", name="T", max_agee="1d")  # type: ignore[call-arg]
    resources.Stream("x", name="T", retention="limit")  # type: ignore[arg-type]
    resources.Role("x", name="app", password="hunter2")  # type: ignore[arg-type]
    resources.PostgresDatabase("x", schemas={"a": {"tables": {"t": {"column": {}}}}})  # type: ignore[dict-item]


@pytest.mark.req("B3.1")
def test_a_program_registers_tokens_and_inputs(run: Callable[..., Engine]) -> None:
    seen = run(program).seen
    assert {args.typ for args in seen.values()} >= {*TOKENS, "pulumi:providers:holdfast"}
    assert seen["tasks"].inputs == {
        "name": "TASKS", "subjects": ["tasks.>"], "retention": "limits", "max_age": "1d", "replicas": 3,
        "placement": {"cluster": "c1", "tags": ["ssd"]},
        "sources": [{"name": "OLD", "external": {"api": "$JS.hub.API"}}],
    }  # fmt: skip
    worker = {"name": "worker", "stream": "TASKS", "ack_policy": "explicit", "backoff": ["1s", 0]}
    assert seen["worker"].inputs == worker
    assert seen["db"].inputs["schemas"]["agents"]["tables"]["state"]["policies"] == {
        "own": {"for": "select", "using": "true"}
    }
    assert seen["contract"].inputs["parts"]["pool"] == {"digest": "0", "entries": "{}"}
    assert {"::agents::" in f"{args.provider}::" for args in seen.values() if args.typ in TOKENS} == {True}


@pytest.mark.req("B3.1")
def test_outputs_have_the_types_that_the_annotations_promise(run: Callable[..., Engine]) -> None:
    found: dict[str, list[Any]] = {}
    run(lambda: found.update({name: values(output) for name, output in program().items()}))
    assert found == {
        "store": ["at:files"], "worker": ["TASKS"], "events": ["1 day"], "contract": ["at:contract"],
        "replicas": [3], "history": [5], "member_of": [["readers", {"role": "writers", "admin": True}]],
    }  # fmt: skip
    assert type(found["replicas"][0]) is type(found["history"][0]) is int


@pytest.mark.req("B3.3")
def test_the_provider_gets_what_is_not_text_as_json_and_secrets_as_secrets(run: Callable[..., Engine]) -> None:
    given = run(program).seen["agents"].inputs
    assert json.loads(given["targets"]) == {"nats": {"main": {"kind": "external", "urls": {"env": "NATS_URL"}}}}
    assert json.loads(given["allow"]) == ["data_loss:nats:main/stream/TASKS"]
    secret = given["secrets"]
    assert secret["4dabf18193072939515e22adb298388d"] == "1b47061264138c4ac30d75fd1eb44270"
    assert json.loads(secret["value"]) == {"PRIMARY_DB_PASSWORD": "hunter2"}


def test_an_object_is_read_by_its_address_alone(run: Callable[..., Engine]) -> None:
    found: list[Any] = []

    def program() -> None:
        stream = resources.Stream.get("known", "nats:main/stream/READ")
        pulumi.Output.all(stream.id, stream.name, stream.replicas).apply(found.append)

    seen = run(program).seen
    assert seen["known"].resource_id == "nats:main/stream/READ"
    assert found == [["nats:main/stream/READ", "READ", 3]]


def test_options_name_our_version_unless_they_name_another(run: Callable[..., Engine]) -> None:
    found: dict[str, Any] = {}

    def note(args: pulumi.ResourceTransformationArgs) -> None:
        found[args.name] = (args.opts.version, args.opts.plugin_download_url)

    def program() -> None:
        resources.Stream("ours", pulumi.ResourceOptions(transformations=[note]), name="A")
        resources.Stream("theirs", pulumi.ResourceOptions(transformations=[note], version="0.0.1"), name="B")
        resources.Provider("plane", pulumi.ResourceOptions(transformations=[note]), plane="agents", env="dev")

    run(program)
    ours = PACKAGE["pluginDownloadURL"]
    assert found == {"ours": (__version__, ours), "theirs": ("0.0.1", ours), "plane": (__version__, ours)}


def test_a_class_of_a_program_may_stand_on_ours(run: Callable[..., Engine]) -> None:
    class Tasks(resources.Stream):
        def __init__(self, resource_name: str) -> None:
            super().__init__(resource_name, name="TASKS", max_age="1d")

    seen = run(lambda: Tasks("x")).seen
    assert (seen["x"].typ, seen["x"].inputs) == ("holdfast:index:Stream", {"name": "TASKS", "max_age": "1d"})


def test_importing_the_classes_loads_neither_kinds_nor_clients() -> None:
    heavy = ["provision.registry", "provision.reconcile", "psycopg", "nats", "click", "jsonschema_rs"]
    check = f"import sys, provision.pulumi.resources; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
