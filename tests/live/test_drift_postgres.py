"""Every column of the catalogs behind the modelled kinds, drifted from outside: named, mended, gone.

The list of columns is the server's own, and so is what is compared before and after.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provision.cli import main
from provision.embedded import postgres
from provision.plan.consents import required
from provision.spec.errors import ConsentError
from tests.live.drift_bed import Bed, Json
from tests.live.postgres_columns import COLUMNS, REASONS, By, Constant, Excluded
from tests.live.postgres_declared import DOCUMENT
from tests.live.postgres_drift import DRIFTS, Drift

#: What an identifier is within each catalog, and which rows are those of the plane.
_CLASSES = "SELECT oid FROM pg_class WHERE relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ({schemas}))"
_TYPES = "SELECT oid FROM pg_type WHERE typnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ({schemas}))"
_MEMBER = (
    "NOT EXISTS (SELECT FROM pg_depend d WHERE d.deptype = 'e' AND d.objid = t.oid"
    " AND d.classid = '{catalog}'::regclass)"
)
_COLUMN = (
    "SELECT concat(attrelid::regclass, '.', attname) FROM pg_attribute WHERE attrelid = adrelid AND attnum = adnum"
)
_SCOPES: dict[str, tuple[str, str]] = {
    "pg_namespace": ("nspname", "nspname IN ({schemas})"),
    "pg_class": ("oid::regclass", f"oid IN ({_CLASSES})"),
    "pg_attribute": ("concat(attrelid::regclass, '.', attname)", f"attrelid IN ({_CLASSES}) AND attnum > 0"),
    "pg_attrdef": (f"({_COLUMN})", f"adrelid IN ({_CLASSES})"),
    "pg_sequence": ("seqrelid::regclass", f"seqrelid IN ({_CLASSES})"),
    "pg_constraint": ("concat(conrelid::regclass, contypid::regtype, conname)",
                      f"(conrelid IN ({_CLASSES}) OR contypid IN ({_TYPES}))"),
    "pg_index": ("indexrelid::regclass", f"indexrelid IN ({_CLASSES})"),
    "pg_partitioned_table": ("partrelid::regclass", f"partrelid IN ({_CLASSES})"),
    "pg_inherits": ("inhrelid::regclass", f"inhrelid IN ({_CLASSES})"),
    "pg_type": ("oid::regtype", f"typtype IN ('e', 'd') AND oid IN ({_TYPES}) AND {_MEMBER}"),
    "pg_enum": ("concat(enumtypid::regtype, enumlabel)", f"enumtypid IN ({_TYPES})"),
    "pg_proc": ("oid::regprocedure", "pronamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ({schemas})) AND "
                + _MEMBER),
    "pg_trigger": ("concat(tgrelid::regclass, CASE WHEN tgisinternal THEN tgfoid::regproc::text ELSE tgname END)",
                   f"tgrelid IN ({_CLASSES})"),
    "pg_policy": ("concat(polrelid::regclass, polname)", f"polrelid IN ({_CLASSES})"),
    "pg_rewrite": ("concat(ev_class::regclass, rulename)", f"ev_class IN ({_CLASSES})"),
    "pg_authid": ("rolname", "rolname IN ({roles})"),
    "pg_auth_members": ("concat(roleid::regrole, member::regrole)", "roleid::regrole::text IN ({roles})"),
    "pg_extension": ("extname", "extname = 'vector'"),
    "pg_db_role_setting": ("concat(setrole::regrole, setdatabase)", "setrole::regrole::text IN ({roles})"),
    "pg_description": ("pg_describe_object(classoid, objoid, objsubid)", "objoid >= 16384"),
    "pg_shdescription": ("pg_describe_object(classoid, objoid, 0)", "objoid >= 16384"),
}  # fmt: skip
#: Columns whose text has object ids or column numbers in it, shown by the names behind them.
_SHOWN = {
    "pg_attrdef.adbin": "pg_get_expr(adbin, adrelid)",
    "pg_attrdef.adnum": "(SELECT attname FROM pg_attribute WHERE attrelid = adrelid AND attnum = adnum)",
    "pg_class.relpartbound": "pg_get_expr(relpartbound, oid)",
    "pg_constraint.conbin": "pg_get_constraintdef(oid)",
    "pg_index.indexprs": "pg_get_expr(indexprs, indrelid)",
    "pg_index.indpred": "pg_get_expr(indpred, indrelid)",
    "pg_partitioned_table.partexprs": "pg_get_expr(partexprs, partrelid)",
    "pg_policy.polqual": "pg_get_expr(polqual, polrelid)",
    "pg_policy.polwithcheck": "pg_get_expr(polwithcheck, polrelid)",
    "pg_proc.proargdefaults": "pg_get_expr(proargdefaults, 0)",
    "pg_proc.prosqlbody": "pg_get_function_sqlbody(oid)",
    "pg_rewrite.ev_action": "pg_get_ruledef(oid)",
    "pg_rewrite.ev_qual": "pg_get_ruledef(oid)",
    # The server names its own triggers of foreign keys by object id.
    "pg_trigger.tgname": "CASE WHEN NOT tgisinternal THEN tgname END",
    "pg_trigger.tgqual": "CASE WHEN NOT tgisinternal THEN pg_get_triggerdef(oid) END",
    "pg_type.typdefaultbin": "pg_get_expr(typdefaultbin, 0)",
}
#: Columns that number columns of a relation.
_NUMBERS = {
    "pg_constraint.conkey": "conrelid",
    "pg_constraint.confdelsetcols": "conrelid",
    "pg_constraint.confkey": "confrelid",
    "pg_index.indkey": "indrelid",
    "pg_partitioned_table.partattrs": "partrelid",
    "pg_trigger.tgattr": "tgrelid",
}
_NAMES = """
    SELECT array_agg(a.attname ORDER BY u.i) FROM unnest(t.{column}::int2[]) WITH ORDINALITY u(n, i)
      LEFT JOIN pg_attribute a ON a.attrelid = t.{relation} AND a.attnum = u.n"""
Snapshot = dict[str, Counter[tuple[str, str | None]]]


class Catalogs:
    """The catalogs of one database, read by somebody who knows nothing of us."""

    def __init__(self, dsn: Mapping[str, Any], session: psycopg.Connection[Any]) -> None:
        self.dsn = dict(dsn)
        self.database = str(dsn["dbname"])
        self._session = session
        session.execute("SET allow_system_table_mods = on")
        session.execute("SET allow_in_place_tablespaces = on")
        rows = self.sql("SELECT fktable::text, fkcols[1], pktable::text, is_array FROM pg_get_catalog_foreign_keys()"
                        " WHERE array_length(fkcols, 1) = 1 AND pkcols = '{oid}'")  # fmt: skip
        self._references = {f"{table}.{column}": (target, many) for table, column, target, many in rows}

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        """Run statements one by one, as a superuser who may do anything."""
        for statement in text.replace("{database}", self.database).split("; "):
            cursor = self._session.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def columns(self, catalog: str) -> list[str]:
        return [
            name for (name,) in self.sql("SELECT attname FROM pg_attribute WHERE attnum > 0"
                                         f" AND attrelid = '{catalog}'::regclass ORDER BY attnum")
        ]  # fmt: skip

    def snapshot(self) -> Snapshot:
        """Every column of every row of the plane: how often which object has which value."""
        names = {
            "schemas": ", ".join(f"'{n}'" for n in DOCUMENT["schemas"]),
            "roles": ", ".join(f"'{n}'" for n in DOCUMENT["roles"]),
        }
        found: Snapshot = {}
        for catalog in COLUMNS:
            columns = self.columns(catalog)
            identity, scope = (text.format(**names, catalog=catalog) for text in _SCOPES[catalog])
            shown = ", ".join(f"({self._shown(catalog, c)})::text" for c in columns)
            for own, *values in self.sql(f"SELECT ({identity})::text, {shown} FROM {catalog} t WHERE {scope}"):
                for column, value in zip(columns, values, strict=True):
                    if "pg.dropped" in own and column != "attisdropped":
                        continue
                    found.setdefault(f"{catalog}.{column}", Counter())[own, value] += 1
        return found

    def _shown(self, catalog: str, column: str) -> str:
        key = f"{catalog}.{column}"
        if key in _SHOWN:
            return _SHOWN[key]
        if key in _NUMBERS:
            return _NAMES.format(column=column, relation=_NUMBERS[key])
        target, many = self._references.get(key, ("", False))
        if many:
            return f"SELECT array_agg(pg_describe_object('{target}'::regclass, o, 0)) FROM unnest(t.{column}::oid[]) o"
        return f"pg_describe_object('{target}'::regclass, t.{column}, 0)" if target else f"t.{column}"


@pytest.fixture(scope="module")
def catalogs(server_root: Path) -> Iterator[Catalogs]:
    """A server of our own: roles belong to all databases of one."""
    with postgres.Server(server_root / "postgres-drift", major=18, fsync=False) as server:
        server.create_database("drifting")
        dsn = server.dsn("drifting")
        with psycopg.connect(**dsn, autocommit=True) as session:
            yield Catalogs(dsn, session)


def bed_of(folder: Path, dsn: Mapping[str, Any]) -> Bed:
    secret = folder / "secret"
    secret.write_text(str(dsn["password"]))
    secret.chmod(0o600)
    target = {"kind": "external", "host": dsn["host"], "port": dsn["port"], "user": dsn["user"],
              "password": {"file": str(secret)}, "database": dsn["dbname"]}  # fmt: skip
    return Bed(folder, {"postgres": {"main": target}})


def test_every_column_of_the_catalogs_has_a_row(catalogs: Catalogs) -> None:
    missing = {c: set(catalogs.columns(c)) ^ set(rows) for c, rows in COLUMNS.items()}
    assert {c: names for c, names in missing.items() if names} == {}


def test_only_what_cannot_differ_is_left_out() -> None:
    rows = {f"{c}.{n}": row for c, found in COLUMNS.items() for n, row in found.items()}
    assert [k for k, r in rows.items() if isinstance(r, Excluded) and not r.reason.startswith(REASONS)] == []
    drifts = {d for r in rows.values() if isinstance(r, By) for d in r.drifts}
    assert drifts <= set(DRIFTS)


def tells(named: Mapping[str, Json], drift: Drift, database: str) -> bool:
    found = named.get(drift.object)
    option = drift.option.replace("{database}", database)
    return found is not None and (option in found or found.get("change") == option)


@pytest.mark.req("B2.2")
def test_every_column_drifted_from_outside_is_named_and_mended(
    catalogs: Catalogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFT_PASSWORD", "ours")
    bed = bed_of(tmp_path, catalogs.dsn)
    catalogs.sql("CREATE TABLESPACE elsewhere_too LOCATION ''")
    ((version,),) = catalogs.sql("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
    bed.declare(json.loads(json.dumps(DOCUMENT).replace("0.8.5", version)))
    bed.mend()
    before = catalogs.snapshot()
    for drift in DRIFTS.values():
        catalogs.sql(drift.sql)
    drifted = catalogs.snapshot()
    rows = {f"{c}.{n}": row for c, found in COLUMNS.items() for n, row in found.items()}
    assert [k for k, row in rows.items() if isinstance(row, By) and before[k] == drifted[k]] == []
    assert {k: _values(drifted[k]) for k, row in rows.items() if isinstance(row, Constant) and not (
        _values(drifted[k]) <= set(row.values))} == {}  # fmt: skip

    named = bed.named()
    unnamed = {n: named.get(d.object) for n, d in DRIFTS.items() if not tells(named, d, catalogs.database)}
    assert unnamed == {}

    mend(bed, catalogs)
    after = catalogs.snapshot()
    compared = [k for k, row in rows.items() if isinstance(row, By) and not row.lasting]
    assert {k: _between(before[k], after[k]) for k in compared if before[k] != after[k]} == {}


def mend(bed: Bed, catalogs: Catalogs) -> None:
    """Apply with every consent; what no spec can say is still told, and goes when a person takes it away."""
    plan = bed.plan()
    bed.apply(*required(plan))
    again = bed.plan()
    assert [s.summary for s in again.steps] == []
    assert {d.change for d in again.drift} == {"unmodelled"}
    for drift in DRIFTS.values():
        if drift.undo:
            catalogs.sql(drift.undo)
    last = bed.plan()
    assert (last.steps, last.drift) == ((), ())


def _values(found: Counter[tuple[str, str | None]]) -> set[str | None]:
    return {value for _, value in found}


def _between(one: Counter[tuple[str, str | None]], other: Counter[tuple[str, str | None]]) -> Any:
    return sorted(map(str, (one - other).elements()))[:6], sorted(map(str, (other - one).elements()))[:6]


# Taken out of the specs -----------------------------------------------------------------------------------

_PLAIN_COLUMNS = {"id": {"type": "bigint", "nullable": False}, "n": {"type": "integer"}, "t": {"type": "text"}}
_FULL_TABLE: Json = {
    "columns": {
        "id": {"type": "bigint", "identity": "always"},
        "n": {"type": "integer", "nullable": False, "default": 5, "statistics": 300, "comment": "c"},
        "t": {"type": "text", "collation": "C", "storage": "external", "compression": "pglz",
              "options": {"n_distinct": 5}},
    },
    "primary_key": {"columns": ["id"], "storage": {"fillfactor": 80}},
    "comment": "c", "unlogged": True, "replica_identity": "full", "row_security": {"enabled": True, "force": True},
    "storage": {"fillfactor": 70, "autovacuum_enabled": False, "toast.autovacuum_enabled": False},
    "unique": {"full_once": ["t"]}, "checks": {"full_positive": "n > 0"},
    "indexes": {"full_n": {"columns": ["n"], "comment": "c"}},
    "triggers": {"tr": {"timing": "before", "events": ["insert"], "for_each": "row", "function": "app.touch"}},
    "policies": {"po": {"using": "n > 1"}}, "grants": {"lost": ["select", "update(n)"]},
}  # fmt: skip
_FULL_ROLE = {"login": True, "createdb": True, "connection_limit": 3, "valid_until": "2090-01-01T00:00:00Z",
              "settings": {"work_mem": "8MB"}, "comment": "c", "member_of": ["group_of"]}  # fmt: skip
#: What may differ between two tables that are declared alike; an owner's own rights may be spelled out or not.
_OWN = (
    "relacl",
    "oid",
    "relname",
    "reltype",
    "relfilenode",
    "reltoastrelid",
    "relfrozenxid",
    "relminmxid",
    "relhastriggers",
    "attrelid",
)


@pytest.mark.req("B2.2")
def test_what_is_taken_out_of_the_specs_is_the_servers_default_again(
    pg_database: dict[str, Any], tmp_path: Path
) -> None:
    bed = bed_of(tmp_path, pg_database)
    touch = {"returns": "trigger", "language": "plpgsql", "body": "BEGIN RETURN NEW; END"}

    def document(table: Json, role: Json, function: Json) -> Json:
        fresh = {"columns": _PLAIN_COLUMNS, "primary_key": ["id"]}
        schema = {"functions": {"touch": {**touch, **function}}, "tables": {"full": table, "fresh": fresh}}
        return {"roles": {"lost": role, "fresh": {}, "group_of": {}}, "schemas": {"app": schema}}

    bed.declare(document(_FULL_TABLE, _FULL_ROLE, {"security": "definer", "cost": 9, "set": {"work_mem": "8MB"}}))
    bed.mend()
    bed.declare(document({"columns": _PLAIN_COLUMNS, "primary_key": ["id"]}, {}, {}))
    bed.mend()
    with psycopg.connect(**pg_database) as session:
        for query, names in _COMPARISONS:
            one, other = (session.execute(query.encode(), (name,)).fetchall() for name in names)
            assert [_unlike(a[0], b[0]) for a, b in zip(one, other, strict=True)] == [{}] * len(one)
        kept = session.execute(
            "SELECT prosecdef, procost, proconfig,"
            " (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'app.full'::regclass),"
            " (SELECT count(*) FROM pg_policy), (SELECT count(*) FROM pg_auth_members WHERE member = 'lost'::regrole),"
            " has_table_privilege('lost', 'app.full', 'SELECT')"
            " OR has_column_privilege('lost', 'app.full', 'n', 'UPDATE')"
            " FROM pg_proc WHERE proname = 'touch'"
        ).fetchone()
    assert kept == (False, 100, None, 0, 0, 0, False)


_TABLES = ("app.full", "app.fresh")
_COMPARISONS: tuple[tuple[str, tuple[str, str]], ...] = tuple((" ".join(text.split()), names) for text, names in (
    ("SELECT to_jsonb(t) FROM pg_class t WHERE oid = %s::regclass", _TABLES),
    ("SELECT to_jsonb(t) FROM pg_attribute t WHERE attnum > 0 AND attrelid = %s::regclass ORDER BY attnum", _TABLES),
    ("""SELECT jsonb_build_object('kind', contype) FROM pg_constraint WHERE conrelid = %s::regclass
         ORDER BY contype, conkey""", _TABLES),
    ("""SELECT jsonb_build_object('options', reloptions) FROM pg_class JOIN pg_index ON indexrelid = oid
         WHERE indrelid = %s::regclass""", _TABLES),
    # No statement brings NULL back; infinity is how PostgreSQL says it.
    ("""SELECT to_jsonb(r) - 'rolname' || jsonb_build_object('rolvaliduntil', nullif(rolvaliduntil, 'infinity'))
          FROM pg_roles r WHERE rolname = %s""", ("lost", "fresh")),
    ("SELECT jsonb_build_object('comment', shobj_description(%s::regrole, 'pg_authid'))", ("lost", "fresh")),
    ("SELECT jsonb_build_object('comment', obj_description(%s::regclass, 'pg_class'))", _TABLES),
))  # fmt: skip


def _unlike(one: Json, other: Json) -> Json:
    return {k: (one[k], other[k]) for k in one if one[k] != other[k] and k not in _OWN}


# What a removal costs --------------------------------------------------------------------------------------

_ROWS = {"columns": {**_PLAIN_COLUMNS, "gone": {"type": "text"}}, "primary_key": ["id"]}


@pytest.mark.parametrize(
    ("after", "address"),
    [
        ({}, "pg:main/app/kept"),
        ({"kept": {"columns": _PLAIN_COLUMNS, "primary_key": ["id"]}}, "pg:main/app/kept/column/gone"),
    ],
    ids=["table", "column"],
)
def test_a_removal_says_how_many_rows_it_costs_and_needs_a_consent(
    pg_database: dict[str, Any], tmp_path: Path, after: Json, address: str
) -> None:
    bed = bed_of(tmp_path, pg_database)
    bed.declare({"schemas": {"app": {"tables": {"kept": _ROWS}}}})
    bed.mend()
    with psycopg.connect(**pg_database, autocommit=True) as session:
        session.execute("INSERT INTO app.kept SELECT i, i, 'x', 'y' FROM generate_series(1, 7) i")
        bed.declare({"schemas": {"app": {"tables": after}}})
        plan = bed.plan()
        assert required(plan) == (f"data_loss:{address}",)
        assert [(h.count, h.unit) for s in plan.steps for h in s.hazards if h.needs_consent] == [(7, "rows")]
        with pytest.raises(ConsentError):
            bed.apply()
        assert session.execute("SELECT count(gone) FROM app.kept").fetchone() == (7,)
    bed.mend()


def test_the_commands_name_drift_and_mend_it(pg_database: dict[str, Any], tmp_path: Path) -> None:
    bed = bed_of(tmp_path, pg_database)
    bed.declare({"schemas": {"app": {"tables": {"kept": _ROWS}}}})
    bed.mend()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "provision.cli", "--specs", str(bed.specs), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
                              env={**os.environ, "HOLDFAST_CACHE": str(bed.cache)})  # fmt: skip

    assert run("drift").returncode == 0
    with psycopg.connect(**pg_database, autocommit=True) as session:
        session.execute(
            "ALTER TABLE app.kept ALTER n SET STATISTICS 7; CREATE RULE aside AS ON INSERT TO app.kept DO ALSO NOTHING"
        )
        told = run("drift")
        assert told.returncode == 2
        assert "pg:main/app/kept/column/n" in told.stdout
        assert "statistics" in told.stdout
        assert "rule aside" in told.stdout
        assert run("apply", "--yes").returncode == 0
        told = run("drift")
        assert (told.returncode, "statistics" in told.stdout, "rule aside" in told.stdout) == (2, False, True)
        session.execute("DROP RULE aside ON app.kept")
    assert run("drift").returncode == 0


@pytest.mark.parametrize("managed", ["declarative", "migrations"])
def test_what_is_missing_is_counted_as_missing(
    pg_database: dict[str, Any], tmp_path: Path, managed: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Also where apply makes nothing, and what nobody has made yet."""
    bed = bed_of(tmp_path, pg_database)
    schema: Json = {"managed": managed, "tables": {"kept": _ROWS}}
    bed.declare({"schemas": {"app": schema}})
    if managed == "declarative":
        bed.mend()
        with psycopg.connect(**pg_database, autocommit=True) as session:
            session.execute("DROP SCHEMA app CASCADE")
    made = bed.plan()
    told = [d.object for d in made.drift if d.change == "missing"]
    assert len(told) == len(made.drift) > 4
    monkeypatch.setenv("HOLDFAST_CACHE", str(bed.cache))
    arguments = ("--specs", str(bed.specs), "--env", "dev")
    assert main.run(["drift", *arguments]) == 2
    gone = len(told) + (managed == "migrations")  # there, nobody wrote the contract yet
    assert capsys.readouterr().out.endswith(f"\n{len(told)} differences, {gone} objects missing.\n")
    schema["tables"]["other"] = _ROWS
    bed.declare({"schemas": {"app": schema}})
    more = {s.object for s in bed.plan().steps if s.action == "create"} | {
        d.object for d in bed.plan().drift if d.change == "missing"
    }
    assert "pg:main/app/other" in more
    main.run(["drift", *arguments])
    assert capsys.readouterr().out.endswith(f" differences, {len(more)} objects missing.\n")
