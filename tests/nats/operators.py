"""An operator of NATS with one account: what a server needs to know of it, and credentials files of users."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]

Json = dict[str, Any]


class Operator:
    """Signs accounts and users. Its account ``app`` has JetStream without limits."""

    def __init__(self) -> None:
        self._key, self._account, self._system = (
            _pair(nkeys.PREFIX_BYTE_OPERATOR), _pair(nkeys.PREFIX_BYTE_ACCOUNT), _pair(nkeys.PREFIX_BYTE_ACCOUNT),
        )  # fmt: skip

    @property
    def config(self) -> Json:
        """The part of a server's configuration that makes it ask for credentials."""
        limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
        room = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
        own = {"type": "account", "limits": {**limits, **room, "wildcards": True}}
        app = _signed(self._key, self._account, "app", own)
        system = _signed(self._key, self._system, "SYS", {"type": "account", "limits": {**limits, "wildcards": True}})
        name = self._system.public_key.decode()
        return {
            "operator": _signed(self._key, self._key, "operator", {"type": "operator", "system_account": name}),
            "system_account": name,
            "resolver": "MEMORY",
            "resolver_preload": {self._account.public_key.decode(): app, name: system},
        }

    def credentials(self, path: Path, name: str = "deployer") -> str:
        """Write the credentials file of a new user; gives its seed."""
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        user = nkeys.from_seed(bytearray(seed))
        token = _signed(self._account, user, name, {"type": "user", "subs": -1, "data": -1, "payload": -1})
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return str(seed.decode())


def _pair(prefix: int) -> Any:
    pair = nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), prefix)))
    pair.public_key  # noqa: B018  (read now: signing wipes nothing, and the pair keeps it)
    return pair


def _signed(issuer: Any, subject: Any, name: str, nats: Json) -> str:
    claims = {
        "jti": name,
        "iat": int(time.time()),
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": name,
        "nats": {**nats, "version": 2},
    }
    text = ".".join(_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims))
    return f"{text}.{_encoded(issuer.sign(text.encode()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
