"""No password reaches what Pulumi keeps or prints, and changed ones are taken up wherever it runs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from provision.embedded.nats import Server
from tests.live.drift_bed import raw
from tests.nats.operators import Operator
from tests.pulumi.stack import Json, Result, Small

#: By the way each comes: a variable, a file, the stack's configuration; and a role that deploys.
BY_ENV, BY_FILE, BY_CONFIG, DEPLOYER = 'env-"p/ss@wörd', "file-p4ssw0rd", "config-p4ssw0rd", "deploy-p4ssw0rd"
ROLES = """
  small_file: {login: true, password: {file: keys/small_file}}
  small_config: {login: true, password: {env: CONFIG_PASSWORD}}
pools:"""


@pytest.fixture(scope="module")
def operator() -> Operator:
    return Operator()


@pytest.fixture(scope="module")
def guarded(server_root: Path, operator: Operator) -> Iterator[Server]:
    """A NATS server that asks for credentials."""
    with Server(server_root / "nats-secrets", config=operator.config) as server:
        yield server


class Guarded(Small):
    """The small plane on servers that ask for credentials, with a role for each way in which a password comes."""

    def __init__(self, root: Path, database: Mapping[str, Any], url: str, operator: Operator) -> None:
        super().__init__(root, {**database, "user": "deployer", "password": DEPLOYER}, url)
        self.server = dict(database)
        self.operator = operator
        self.admin("CREATE ROLE deployer SUPERUSER LOGIN")
        self.deploy_as(DEPLOYER)
        self.sign_anew()
        targets = json.loads((self.specs / "environments" / "dev.yaml").read_text())
        targets["targets"]["nats"]["main"]["creds"] = {"env": "NATS_CREDS_FILE"}
        self.write(json.dumps(targets), "environments/dev.yaml")
        self.edit("\npools:", ROLES)
        self.variables["SMALL_PASSWORD"] = BY_ENV
        (root / "keys").mkdir()
        (root / "keys" / "small_file").write_text(f"{BY_FILE}\n")
        self.config_set("holdfast:secrets.CONFIG_PASSWORD", BY_CONFIG, secret=True)
        self.secrets |= {BY_ENV, BY_FILE, BY_CONFIG}

    def admin(self, statement: str) -> None:
        """Run SQL as the server's administrator, whose password stays."""
        with psycopg.connect(**self.server, autocommit=True) as connection:
            connection.execute(statement.encode())

    def deploy_as(self, password: str) -> None:
        """Give the deployer another password, and tell it to the next command."""
        self.admin(f"ALTER ROLE deployer PASSWORD '{password}'")
        self.variables["PG_SECRET"] = password
        self.secrets.add(password)

    def sign_anew(self) -> None:
        """Write a new credentials file, of a user that did not exist before."""
        path = self.root.parent / "deployer.creds"
        self.secrets.add(self.operator.credentials(path))
        self.variables["NATS_CREDS_FILE"] = str(path)

    def enters(self, role: str, password: str) -> bool:
        """Whether a role gets in with a password."""
        try:
            psycopg.connect(**{**self.server, "user": role, "password": password}).close()
        except psycopg.OperationalError:
            return False
        return True

    def leaks(self) -> list[str]:
        """Files below the folder, and of the shared home and cache, that hold a secret in any spelling."""
        forms = {form: secret for secret in self.secrets for form in spellings(secret)}
        given = {self.root / "keys" / "small_file"}
        places = [p for folder in (self.root, self.root.parent / "pulumi-shared") for p in folder.rglob("*")]
        assert self.root / "state" / ".pulumi" / "stacks" / "small" / "dev.json" in places
        found = {p: p.read_bytes() for p in places if p.is_file() and p not in given}
        return [f"{p} holds {forms[f]}" for p, text in found.items() for f in forms if f in text]


def spellings(secret: str) -> set[bytes]:
    """A secret as files may hold it: plain, in JSON, in a URL, in Go's quotes, encoded."""
    texts = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], quote(secret, safe="")}
    texts |= {json.dumps(text)[1:-1] for text in texts}
    return {text.encode() for text in texts} | {base64.b64encode(secret.encode()).rstrip(b"=")[:-1]}


@pytest.fixture
def stack(tmp_path: Path, pg_database: Json, guarded: Server, operator: Operator) -> Iterator[Guarded]:
    """The guarded plane, not yet up."""
    made = Guarded(tmp_path / "small", pg_database, guarded.url, operator)
    yield made
    with raw(guarded.url, user_credentials=made.variables["NATS_CREDS_FILE"]) as link:
        for name in link.do("STREAM.NAMES", {})["streams"] or ():
            link.do(f"STREAM.DELETE.{name}")


def kept(stack: Guarded, name: str, result: Result) -> None:
    """Keep what a command told beside the rest, so that it is searched too."""
    (stack.root / f"{name}.told").write_text(result.told)


@pytest.mark.req("B3.3")
def test_no_password_is_kept_or_told(stack: Guarded) -> None:
    aloud = ("-v=9", "--logtostderr", "--logflow")
    kept(stack, "preview", stack.preview("--save-plan", "plan.json", "--diff", *aloud))
    kept(stack, "preview-json", stack.preview("--json", "--show-secrets=false"))
    events = {"PULUMI_DEBUG_COMMANDS": "true"}
    kept(stack, "up", stack.up("--plan", "plan.json", "--event-log", "events.json", "--debug", *aloud, **events))
    assert (stack.root / "plan.json").stat().st_size > 1000
    assert (stack.root / "events.json").stat().st_size > 1000
    for role, password in (("small_app", BY_ENV), ("small_file", BY_FILE), ("small_config", BY_CONFIG)):
        assert stack.enters(role, password)
        assert not stack.enters(role, "another")
    assert stack.up().is_unchanged
    kept(stack, "refresh", stack.refresh("--diff", *aloud))
    kept(stack, "export", stack.run("stack", "export"))
    kept(stack, "output", stack.run("stack", "output", "--json", "--show-secrets"))
    assert stack.leaks() == []
    text = json.dumps(stack.state())
    assert "SCRAM" not in text
    assert [
        name for name in ("SMALL_PASSWORD", "keys/small_file", "CONFIG_PASSWORD", "PG_SECRET") if name not in text
    ] == []


@pytest.mark.req("B3.3")
def test_a_refused_password_is_told_without_it(stack: Guarded) -> None:
    stack.up()
    stack.secrets.add("wrong-p4ssw0rd")
    for command in (stack.refresh, stack.destroy):
        refused = command(check=False, PG_SECRET="wrong-p4ssw0rd")
        assert refused.code
        assert "refuses" in refused.told or "password authentication failed" in refused.told
        kept(stack, "refused", refused)
    assert stack.leaks() == []


@pytest.mark.req("B3.3")
def test_changed_credentials_hold_for_refresh_and_destroy(stack: Guarded) -> None:
    stack.up()
    stack.deploy_as("deploy-an0ther")
    stack.sign_anew()
    assert stack.refresh().is_unchanged
    assert stack.up().is_unchanged

    stack.variables["SMALL_PASSWORD"] = "env-an0ther"
    stack.config_set("holdfast:secrets.CONFIG_PASSWORD", "config-an0ther", secret=True)
    stack.secrets |= {"env-an0ther", "config-an0ther"}
    plan = stack.holdfast("plan", "--format", "json", CONFIG_PASSWORD="config-an0ther").json()
    assert [s["object"] for s in plan["steps"]] == ["pg:main/role/small_app", "pg:main/role/small_config"]
    changed = stack.up("--refresh")
    assert changed.counts["updated"] >= 2
    assert stack.enters("small_app", "env-an0ther")
    assert stack.enters("small_config", "config-an0ther")
    assert not stack.enters("small_app", BY_ENV)
    assert stack.enters("small_file", BY_FILE)
    assert stack.up("--refresh").is_unchanged

    stack.deploy_as("deploy-a-third")
    stack.sign_anew()
    stack.destroy()
    assert stack.resources() == {}
    assert stack.leaks() == []


@pytest.mark.req("B3.3")
def test_a_changed_password_is_one_step(stack: Guarded) -> None:
    stack.up()
    stack.variables["SMALL_PASSWORD"] = "env-an0ther"
    stack.secrets.add("env-an0ther")
    shown = stack.refresh("--preview-only", "--diff")
    assert "pg:main/role/small_app" in shown.out
    stack.refresh()
    steps = stack.steps()
    assert {name: step["op"] for name, step in steps.items() if "Provider" not in step["urn"]} == {
        "plane/small_app": "update"
    }
    told = [line for line in stack.preview().told.splitlines() if "small_app" in line]
    stack.up()
    assert told
    assert stack.enters("small_app", "env-an0ther")
    assert stack.up("--refresh").is_unchanged


#: A program that writes passwords where references belong.
PLAIN = """\
import os
import sys

import pulumi
from provision.pulumi.resources import Provider, Role

# Pulumi interrupts the program when a resource fails.
sys.excepthook = lambda kind, *more: os._exit(1) if kind is KeyboardInterrupt else sys.__excepthook__(kind, *more)
targets = pulumi.Config().require_object("targets")
provider = Provider("plain", plane="plain", env="dev", targets=targets)
Role("plain", pulumi.ResourceOptions(provider=provider), name="plain", login=True, password={password})
"""


@pytest.mark.req("B3.3")
@pytest.mark.parametrize(
    "password", ['"plain-p4ssw0rd"', 'pulumi.Output.secret("plain-p4ssw0rd")']
)
def test_a_password_in_the_program_is_refused(stack: Guarded, password: str) -> None:
    stack.program(PLAIN.format(password=password))
    targets = json.loads((stack.specs / "environments" / "dev.yaml").read_text())["targets"]
    stack.run("config", "set", "--plaintext", "targets", json.dumps(targets))
    stack.secrets.add("plain-p4ssw0rd")
    refused = stack.preview(check=False)
    assert refused.code
    assert "reference" in refused.told
    assert stack.up(check=False).code
    assert not stack.sql("SELECT 1 FROM pg_roles WHERE rolname = 'plain'")


@pytest.mark.req("B3.3")
@pytest.mark.parametrize("target", [{"password": "plain-p4ssw0rd"}, {"dsn": "postgresql://u:plain-p4ssw0rd@h/d"}])
def test_a_password_among_the_targets_is_refused(stack: Guarded, target: Json) -> None:
    stack.program(PLAIN.format(password='{"env": "SMALL_PASSWORD"}'))
    postgres = {"kind": "external", "host": "127.0.0.1", "database": "d", **target}
    stack.run("config", "set", "--plaintext", "targets", json.dumps({"postgres": {"main": postgres}}))
    refused = stack.preview(check=False)
    assert refused.code
    assert "never the secret itself" in refused.told or "a password stands in the text" in refused.told
    assert "plain-p4ssw0rd" not in refused.told
