"""Planes on older releases of nats-server: 2.10 is refused with a reason, 2.11 and 2.12 do all that is promised."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.contract import Contract
from holdfast.errors import Unsupported

pytestmark = pytest.mark.soak
Run = Callable[..., Any]
_STATE = Path(__file__).resolve().parents[1] / "state"


@pytest.mark.req("D3.3")
def test_a_server_that_ignores_the_header_is_refused_by_connect(
    site_of: Any, environ: Any, contract_text: str, run: Run, tell: Run
) -> None:
    async def scenario() -> None:
        site = site_of("2.10")
        contract = Contract.parse(contract_text)
        async with site.client() as client:
            await site.drop(client, contract.names.state_bucket)
            await site.make(client, contract.names.state_bucket)
        there = {**environ, "NATS_SERVERS": site.server.url}
        with pytest.raises(Unsupported, match=r"AGENT_STATE needs nats-server 2\.11 or newer") as caught:
            async with holdfast.connect(there, contract=contract):
                pass
        tell(site.server.version, caught.value)
        assert not caught.value.retryable

    run(scenario())


@pytest.mark.req("D1.1", "D2.1", "D2.4", "D3.3", "D11.3")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("line", ["2.11", "2.12"])
def test_the_tests_of_state_pass_on(plane_on: Any, tmp_path: Path, tell: Run, line: str) -> None:
    overlaid = plane_on(line)
    environ = {**overlaid.environ, "HOLDFAST_ADMIN_PASSWORD": overlaid.admin["password"]}
    given = tmp_path / "environment"
    given.write_text("".join(f"export {name}='{value}'\n" for name, value in environ.items()))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not soak", "--no-header",
         str(_STATE / "test_rt_state_agent.py"), str(_STATE / "test_rt_state_sync.py")],
        cwd=_STATE.parents[1], env={**os.environ, "HOLDFAST_TEST_ENV": str(given)},
        capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    said = done.stdout.strip().splitlines()[-1]
    tell("tests of state on", overlaid.site.server.version, said)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in said
