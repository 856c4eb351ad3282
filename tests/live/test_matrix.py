"""The whole plane of specs/ on every supported server version: applied, then nothing is left to do."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from provision.embedded import nats, postgres
from tests.live.conftest import Plane

SPECS = Path(__file__).parents[2] / "specs"
SECRETS = ("PRIMARY_DB_PASSWORD", "REPLICA_DB_PASSWORD", "BACKGROUND_DB_PASSWORD", "ANALYTICS_DB_PASSWORD")
#: Options of the plane that came after 2.10, taken out for that server alone.
SINCE_2_11 = re.compile(r"^ *allow_msg_ttl: true\n", re.MULTILINE)


def whole(root: Path, database: dict[str, Any], url: str) -> Plane:
    """The plane of specs/ with the dev overrides, pointed at servers that run already."""
    plane = Plane(root, database, url)
    shutil.rmtree(plane.specs)
    shutil.copytree(SPECS, plane.specs)
    names = set(re.findall(r"env: ([A-Z_]+)", "".join(p.read_text() for p in plane.specs.rglob("*.yaml"))))
    plane.variables |= {name: f"secret-{name.lower()}" for name in names | set(SECRETS)}
    plane.variables["PG_SECRET"] = str(database["password"])
    dev = plane.specs / "environments" / "dev.yaml"
    overrides = dev.read_text()[dev.read_text().index("override:") :]
    plane.target(int(database["port"]), url=url)
    targets = json.loads(dev.read_text())["targets"]
    dev.write_text(f"targets: {json.dumps(targets)}\n{overrides}")
    return plane


def without_vectors(plane: Plane) -> None:
    """Take out what needs pgvector."""
    (plane.specs / "extensions.yaml").unlink()
    page = plane.specs / "schemas" / "knowledge.yaml"
    text = re.sub(r"^ +embedding_vector: .*\n", "", page.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^( +)idx_knowledge_embeddings_vector:\n(?:\1 +.*\n)+", "", text, flags=re.MULTILINE)
    page.write_text(text)


def nothing_left(plane: Plane) -> None:
    plane.run("apply", "--yes")
    after = plane.plan()
    assert (after["steps"], after["drift"], after["adopt"]) == ([], [], [])
    assert plane.run("drift").returncode == 0


@pytest.mark.soak
@pytest.mark.req("J1.1")
@pytest.mark.parametrize("major", [15, 16, 17, 18])
def test_the_plane_stands_on_every_postgres(
    major: int, tmp_path: Path, postgres_of: Callable[[int], postgres.Server], nats_url: str
) -> None:
    server = postgres_of(major)
    name = f"matrix_{uuid4().hex[:8]}"
    server.create_database(name)
    plane = whole(tmp_path, server.dsn(name), nats_url)
    has_vector = plane.sql("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'") == [(1,)]
    if not has_vector:
        print(f"PostgreSQL {major}: no pgvector here, so embedding_vector and its index are left out")
        assert "vector" in plane.run("plan", code=1).stderr
        without_vectors(plane)
    nothing_left(plane)
    server.query(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.soak
@pytest.mark.parametrize("line", ["2.10", "2.11", "2.12", "2.14", "latest"])
def test_the_plane_stands_on_every_nats_server(
    line: str, tmp_path: Path, nats_of: Callable[[str], nats.Server], pg_database: dict[str, Any]
) -> None:
    plane = whole(tmp_path, pg_database, nats_of(line).url)
    if line == "2.10":
        refused = plane.run("plan", code=1).stderr
        assert "allow_msg_ttl" in refused
        assert "2.11" in refused
        for path in plane.specs.rglob("*.yaml"):
            path.write_text(SINCE_2_11.sub("", path.read_text()))
    nothing_left(plane)
