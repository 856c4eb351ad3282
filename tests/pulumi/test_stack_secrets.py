"""No password reaches what Pulumi keeps or prints, and changed ones are taken up wherever it runs."""

from __future__ import annotations

import base64
import json
import re
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
pools:"""
CONFIG_ROLE = """
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
        self.variables["HOLDFAST_CACHE"] = str(root.parent / "cache")  # one that only these passwords can reach
        (root / "keys").mkdir()
        (root / "keys" / "small_file").write_text(f"{BY_FILE}\n")
        self.secrets |= {BY_ENV, BY_FILE}

    def keep_in_config(self) -> None:
        """Declare another role, whose password the stack's configuration holds."""
        self.edit("\npools:", CONFIG_ROLE)
        self.secrets.add(BY_CONFIG)
        self.run("config", "set", "--secret", "--path", "holdfast:secrets.CONFIG_PASSWORD", BY_CONFIG)

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
        """Files below the folder, and of Pulumi's home and our cache, that hold a secret in any spelling."""
        forms = {form: secret for secret in self.secrets for form in spellings(secret)}
        given = {self.root / "keys" / "small_file"}
        folders = (self.root, Path(self.environment()["PULUMI_HOME"]), Path(self.environment()["HOLDFAST_CACHE"]))
        places = [p for folder in folders for p in folder.rglob("*")]
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


def watched(stack: Guarded, *aloud: str) -> None:
    """Bring the plane up, with every file that Pulumi can write, and search all of them."""
    stack.variables["PULUMI_DEBUG_COMMANDS"] = "true"
    kept(stack, "preview", stack.preview("--save-plan", "plan.json", "--diff", *aloud))
    kept(stack, "preview-json", stack.preview("--json"))
    kept(stack, "up", stack.up("--event-log", "events.json", "--debug", *aloud))
    assert (stack.root / "plan.json").stat().st_size > 1000
    assert (stack.root / "events.json").stat().st_size > 1000
    assert stack.up().is_unchanged
    kept(stack, "refresh", stack.refresh("--diff", *aloud))
    kept(stack, "export", stack.run("stack", "export"))
    kept(stack, "output", stack.run("stack", "output", "--json", "--show-secrets"))
    assert stack.leaks() == []
    text = json.dumps(stack.state())
    assert "SCRAM" not in text
    assert all(name in text for name in ("SMALL_PASSWORD", "PG_SECRET", "NATS_CREDS_FILE"))


@pytest.mark.req("B3.3")
def test_no_password_by_reference_is_kept_or_told_even_in_debug_logs(stack: Guarded) -> None:
    stack.variables["PULUMI_DEBUG_GRPC"] = str(stack.root / "calls.json")
    watched(stack, "-v=9", "--logtostderr", "--logflow")
    assert (stack.root / "calls.json").stat().st_size > 1000
    assert stack.enters("small_app", BY_ENV)
    assert stack.enters("small_file", BY_FILE)
    assert not stack.enters("small_app", BY_FILE)


@pytest.mark.req("B3.3")
def test_no_password_of_the_stacks_configuration_is_kept_or_told(stack: Guarded) -> None:
    """At -v=9 the engine itself writes the inputs of every provider, secret ones too, so not with these."""
    stack.keep_in_config()
    watched(stack)
    assert stack.enters("small_config", BY_CONFIG)


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
    stack.keep_in_config()
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
    # A refresh knows the configuration of the last up, unless it runs the program.
    stack.refresh("--run-program")
    shown = [address for address, resource in stack.resources().items() if "drift" in resource["inputs"]]
    assert sorted(shown) == ["pg:main/role/small_app", "pg:main/role/small_config"]
    stack.up()
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
    assert "pg:main/role/small_app: password is not as declared" in stack.refresh("--preview-only", "--diff").out
    stack.refresh()
    foreseen = stack.preview("--diff")
    steps = set(re.findall(r"(?:pg|nats|plane):main/\S+: [a-z][^\"\n]*", foreseen.out))
    assert {step for step in steps if "not as declared" not in step} == {
        "pg:main/role/small_app: rotate the password of small_app"
    }
    assert foreseen.counts["update"] == 1
    stack.up()
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
@pytest.mark.parametrize("password", ['"plain-p4ssw0rd"', 'pulumi.Output.secret("plain-p4ssw0rd")'])
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
