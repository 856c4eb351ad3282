"""Floors: the least that any tool has to do, each as a process of its own.

usage: floors.py catalog CONNINFO | nats URL | create URL | events FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

CATALOG = (
    "SELECT oid, nspname, nspowner, nspacl FROM pg_namespace",
    "SELECT c.oid, c.relnamespace, c.relname, c.relkind, c.relowner, c.reloptions, c.relacl, c.relispartition,"
    " CASE WHEN c.relispartition THEN pg_get_expr(c.relpartbound, c.oid) END FROM pg_class c"
    " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_|^information_schema$'",
    "SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attidentity, a.attgenerated,"
    " a.attstorage, a.attcompression, pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a"
    " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
    " WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition"
    " AND n.nspname !~ '^pg_|^information_schema$'",
    "SELECT o.oid, o.conrelid, o.conname, o.contype, o.conkey, o.confrelid, o.confkey, o.confdeltype,"
    " CASE WHEN o.contype = 'c' THEN pg_get_expr(o.conbin, o.conrelid) END FROM pg_constraint o"
    " JOIN pg_namespace n ON n.oid = o.connamespace WHERE n.nspname !~ '^pg_|^information_schema$'",
    "SELECT i.indexrelid, i.indrelid, i.indkey, i.indoption, i.indclass, i.indisunique, i.indisvalid,"
    " pg_get_expr(i.indpred, i.indrelid), pg_get_expr(i.indexprs, i.indrelid) FROM pg_index i"
    " JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname !~ '^pg_|^information_schema$'",
    "SELECT oid, typname, typnamespace, typtype FROM pg_type WHERE typtype IN ('e', 'd')",
    "SELECT oid, proname, pronamespace, prosrc FROM pg_proc WHERE pronamespace NOT IN (11, 13000)",
    "SELECT oid, tgrelid, tgname, tgtype FROM pg_trigger WHERE NOT tgisinternal",
    "SELECT polrelid, polname, polcmd FROM pg_policy",
    "SELECT oid, rolname, rolsuper, rolconnlimit FROM pg_roles",
    "SELECT inhrelid, inhparent FROM pg_inherits",
    "SELECT partrelid, partstrat, partattrs FROM pg_partitioned_table",
)


def catalog(conninfo: str) -> int:
    """Read the whole catalog in bulk, as rows."""
    import psycopg

    with psycopg.connect(conninfo) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return sum(len(connection.execute(query.encode()).fetchall()) for query in CATALOG)


def nats(url: str) -> int:
    """Read every stream and consumer by pages."""
    import asyncio
    import json

    async def read() -> int:
        from nats.aio.client import Client

        client = Client()
        await client.connect(url)
        streams: list[dict[str, object]] = []
        total = 1
        while len(streams) < total:
            body = json.dumps({"offset": len(streams)}).encode()
            page = json.loads((await client.request("$JS.API.STREAM.LIST", body, timeout=30)).data)
            streams += page["streams"]
            total = page["total"]
        names = [s["config"]["name"] for s in streams if s["state"]["consumer_count"]]  # type: ignore[index]
        answers = await asyncio.gather(
            *(client.request(f"$JS.API.CONSUMER.LIST.{n}", b'{"offset":0}', timeout=30) for n in names)
        )
        consumers = sum(len(json.loads(a.data)["consumers"]) for a in answers)
        await client.close()
        return len(streams) + consumers

    return asyncio.run(read())


def create(url: str) -> int:
    """Create 1,000 streams with a consumer each by raw requests, 64 in flight, and count what was refused."""
    import asyncio
    import json

    async def run() -> int:
        from nats.aio.client import Client

        client = Client()
        await client.connect(url)
        gate = asyncio.Semaphore(64)

        async def one(n: int) -> int:
            stream = {
                "name": f"F{n}",
                "subjects": [f"floor.{n}.>"],
                "max_bytes": 1 << 20,
                "max_msgs": 1000,
                "max_age": 3600 * 10**9,
            }
            consumer = {"durable_name": "c", "name": "c", "ack_policy": "explicit", "filter_subject": f"floor.{n}.>"}
            requests = (
                (f"$JS.API.STREAM.CREATE.F{n}", stream),
                (f"$JS.API.CONSUMER.DURABLE.CREATE.F{n}.c", {"stream_name": f"F{n}", "config": consumer}),
            )
            refused = 0
            for subject, body in requests:
                async with gate:
                    answer = await client.request(subject, json.dumps(body).encode(), timeout=60)
                refused += "error" in json.loads(answer.data)
            return refused

        refused = sum(await asyncio.gather(*(one(n) for n in range(1_000))))
        await client.close()
        return refused

    found = asyncio.run(run())
    if found:
        raise SystemExit(f"{found} requests were refused")
    return found


def events(folder: str) -> int:
    """Objects with line and column, straight from libyaml's events: what any positioned loader must do."""
    import gc

    import yaml

    gc.disable()
    count = 0
    for path in sorted(Path(folder).rglob("*.yaml")):
        stack: list[object] = []
        for event in yaml.parse(path.read_bytes(), Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.ScalarEvent):
                stack.append((event.value, event.start_mark.line, event.start_mark.column))
                count += 1
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                stack.append([event.start_mark.line, event.start_mark.column])
    return count


if __name__ == "__main__":
    print({"catalog": catalog, "nats": nats, "create": create, "events": events}[sys.argv[1]](sys.argv[2]))
