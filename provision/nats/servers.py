"""What the servers of a cluster say of themselves: tags and sizes, which only the system account is told.

Subjects: NATS docs, "System Events", $SYS.REQ.SERVER.PING.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from provision.nats.api import Json, Link, Settings, connect
from provision.nats.errors import Unreachable

_PING = "$SYS.REQ.SERVER.PING"
_WAIT_S = 3.0


def as_system(settings: Settings, system: Mapping[str, str | None]) -> Settings:
    """The settings of the target with the resolved log-in of its system account."""
    user, password, creds, nkey = (system.get(name) for name in ("user", "password", "creds", "nkey"))
    return replace(settings, user=user, password=password, creds=creds, nkey=nkey, token=None, domain=None)


def read(settings: Settings) -> list[Json]:
    """Ask every server over a short connection. Raises Unreachable when it is not the system account's."""
    with connect(settings) as session:
        answers = session.run(_ask(session.link))
    if not answers:
        raise Unreachable(
            f"no server at {settings.place} tells the user of `system` anything",
            "Give a user of the system account (system_account in the servers' configuration).",
        )
    return answers


async def _ask(link: Link) -> list[Json]:
    """Every server's VARZ. The first STATSZ says how many servers there are."""
    first = await link.every_answer(f"{_PING}.STATSZ", 1, _WAIT_S)
    if not first:
        return []
    number = int(first[0].get("statsz", {}).get("active_servers") or 1)
    return await link.every_answer(f"{_PING}.VARZ", number, _WAIT_S)


def measured(answers: Iterable[Json]) -> dict[str, Any]:
    """Facts by the names that targets use, and ``hosts``: each server with JetStream. Pure; order does not matter."""
    hosts = sorted((_host(answer) for answer in answers), key=lambda host: str(host["name"]))
    stores = [h for h in hosts if h["jetstream"]]
    if not hosts:
        return {}
    return {
        "hosts": stores,
        "servers": len(stores),
        "tags": sorted({tag for host in stores for tag in host["tags"]}),
        "server_tags": [host["tags"] for host in stores],
        "max_payload": min(int(host["max_payload"]) for host in hosts),
        **{name: min((int(h[name]) for h in stores), default=0) for name in ("max_file_store", "max_memory_store")},
    }


def _host(answer: Json) -> Json:
    server, data = answer.get("server", {}), answer.get("data", {})
    config = (data.get("jetstream") or {}).get("config") or {}
    return {
        "name": server.get("name"),
        "cluster": server.get("cluster") or (data.get("cluster") or {}).get("name"),
        "tags": sorted(data.get("tags") or server.get("tags") or ()),
        "jetstream": bool(config),
        "max_payload": data.get("max_payload") or 0,
        "max_file_store": config.get("max_storage") or 0,
        "max_memory_store": config.get("max_memory") or 0,
    }
