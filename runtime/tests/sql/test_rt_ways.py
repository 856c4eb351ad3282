"""Ways to a server: a Unix socket, TLS that is verified, PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sql.pooling import changed, pools_of, value

from holdfast.contract import Contract
from holdfast.errors import ConfigurationError
from holdfast.settings import Settings
from holdfast.sql.pools import Pools
from holdfast.sql.transactions import Boundary, TransactionContext, Transactions

if TYPE_CHECKING:
    from conftest import Servers


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder in memory that other accounts can pass."""
    memory = Path("/dev/shm")
    found = Path(tempfile.mkdtemp(prefix=f"holdfast-rt-{os.getpid()}-", dir=memory if memory.is_dir() else None))
    found.chmod(0o711)
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.mark.req("D9.3", "D9.4")
def test_a_unix_socket(contract: Contract, environ: Mapping[str, str], servers: Servers) -> None:
    with psycopg.connect(**servers.admin) as admin:
        row = admin.execute("SHOW unix_socket_directories").fetchone()
    assert row is not None
    variables = {**environ, "PG_USE_SOCKET": "true", "PG_SOCKET_PATH": row[0], "PG_HOST": "nowhere.invalid"}

    async def use() -> None:
        async with (
            pools_of(contract, Settings.from_environment(variables)) as pools,
            pools.primary.connection() as connection,
        ):
            assert await value(connection, "SELECT inet_server_addr()") is None
            assert await value(connection, "SELECT current_user") == "app_primary"

    asyncio.run(use())


# PgBouncer --------------------------------------------------------------------------------------------------

BINARY = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")


@contextmanager
def bouncing(environ: Mapping[str, str], root: Path, options: str = "") -> Iterator[int]:
    """The port of a PgBouncer in transaction mode that gives all clients two server connections."""
    if BINARY is None:
        pytest.skip("no pgbouncer program here; Debian has it as the package pgbouncer")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    roles = ("primary", "replica", "background", "analytics")
    (root / "users").write_text("".join(f'"app_{r}" "{environ[f"{r.upper()}_DB_PASSWORD"]}"\n' for r in roles))
    (root / "bouncer.ini").write_text(
        f"[databases]\n* = host={environ['PG_HOST']} port={environ['PG_PORT']}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {root}/users\npool_mode = transaction\ndefault_pool_size = 2\n"
        f"{options}"
    )
    user = ["--user", pwd.getpwnam("nobody").pw_name] if os.geteuid() == 0 else []
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([BINARY, *user, str(root / "bouncer.ini")], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 10
            while b"process up" not in (root / "log").read_bytes():
                assert process.poll() is None, (root / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture
def bouncer(environ: Mapping[str, str], root: Path) -> Iterator[int]:
    """The port of a running PgBouncer."""
    with bouncing(environ, root) as port:
        yield port


@pytest.mark.req("D8.7", "D6.5")
def test_behind_a_transaction_pooler_nothing_is_left_in_a_session(
    contract: Contract, environ: Mapping[str, str], bouncer: int
) -> None:
    for name in contract.pools:
        contract = changed(contract, name, pgbouncer=True, mode="transaction", max=8)
    settings = Settings.from_environment({**environ, "PG_PORT": str(bouncer)})
    pids: set[int] = set()

    async def one(pools: Pools, transactions: Transactions, number: int) -> None:
        context = TransactionContext(Boundary.AGENT_TASK, timeout_s=9, agent_id=str(number))
        for _ in range(12):
            shown = await transactions.run(named, context)
            assert shown == [f"agent_{number}", "9s"]
            async with pools.primary.connection() as connection:
                assert await value(connection, "SELECT %s::int + 1", number) == number + 1
                pids.add(await value(connection, "SELECT pg_backend_pid()"))
                assert not str(await value(connection, "SHOW application_name")).startswith("agent_1")

    async def named(connection: Any) -> list[str]:
        query = "SELECT current_setting('application_name'), current_setting('statement_timeout')"
        return list(await (await connection.execute(query)).fetchone())

    async def use() -> None:
        async with pools_of(contract, settings, interval_s=0.2) as pools:
            transactions = Transactions(pools.primary, marker_table=contract.names.inbox_table)
            await asyncio.gather(*(one(pools, transactions, number) for number in range(10, 20)))
            assert all(h.healthy for h in await pools.check())
            await transactions.close()

    asyncio.run(use())
    assert 1 <= len(pids) <= 2


@pytest.mark.req("D8.7")
def test_prepared_statements_would_break_there(contract: Contract, environ: Mapping[str, str], bouncer: int) -> None:
    """What the mode protects from, and that the test above could fail."""
    spec = replace(contract.pools["primary"], pgbouncer=True, mode="session", max=8)
    declared = replace(contract, pools={"primary": spec})
    settings = Settings.from_environment({**environ, "PG_PORT": str(bouncer)})

    async def one(pools: Pools) -> None:
        async with pools.primary.connection() as connection:
            for _ in range(30):
                await value(connection, "SELECT %s::int", 1)
                await asyncio.sleep(0.001)

    async def use() -> None:
        async with pools_of(declared, settings) as pools:
            outcomes = await asyncio.gather(*(one(pools) for _ in range(8)), return_exceptions=True)
            assert any(isinstance(outcome, Exception) for outcome in outcomes)

    said = subprocess.run([str(BINARY), "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(part) for part in said.split()[1].split(".")[:2])
    if version >= (1, 21):
        pytest.skip("this PgBouncer keeps prepared statements itself")
    asyncio.run(use())


# TLS, which the embedded PostgreSQL is built without and PgBouncer has -----------------------------------------


@pytest.fixture
def certificate(root: Path) -> tuple[Path, Path]:
    """Files of a certificate for localhost, which is its own authority, and of its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl program here")
    cert, key = root / "cert.pem", root / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o644)
    return cert, key


def in_the_cloud(contract: Contract, port: int, ca: Path | None) -> Contract:
    """The plane as if it were a managed server behind that port."""
    tls = {"tls": {"ca": str(ca)}} if ca else {}
    target = {"form": "cloud", "host": "localhost", "port": port, "database": "mister_smith", **tls}
    spec = replace(contract.pools["primary"], pgbouncer=True, mode="transaction", min=0)
    return replace(contract, pools={"primary": spec}, targets={"nats": {}, "postgres": {"main": target}})


@pytest.mark.req("D9.5", "D9.3")
def test_with_an_authority_the_server_must_prove_its_name(
    contract: Contract, environ: Mapping[str, str], root: Path, certificate: tuple[Path, Path]
) -> None:
    ca, key = certificate
    options = f"client_tls_sslmode = require\nclient_tls_cert_file = {ca}\nclient_tls_key_file = {key}\n"
    secrets = {name: text for name, text in environ.items() if name.endswith("_PASSWORD")}

    async def is_encrypted(ca: Path | None, **variables: str) -> bool:
        declared, settings = in_the_cloud(contract, port, ca), Settings.from_environment({**secrets, **variables})
        async with await Pools.open(declared, settings) as pools, pools.primary.connection() as connection:
            return connection.pgconn.ssl_in_use

    with bouncing(environ, root, options) as port:
        assert asyncio.run(is_encrypted(ca))
        assert asyncio.run(is_encrypted(None))
        # The same server under a name that its certificate does not hold.
        with pytest.raises(ConfigurationError, match="TLS"):
            asyncio.run(is_encrypted(ca, PG_HOST="127.0.0.1"))
        with pytest.raises(ConfigurationError, match="TLS"):
            asyncio.run(is_encrypted(None, PG_HOST="127.0.0.1", PG_SSL_ROOT_CERT=str(ca)))
        # Without an authority nobody checks the name: require only encrypts.
        assert asyncio.run(is_encrypted(None, PG_HOST="127.0.0.1"))
