"""Applies a plan and kills itself at one point. Run as a process: connection JSON, step id, phase."""

from __future__ import annotations

import json
import os
import signal
import sys

from provision.postgres import connect
from provision.postgres.apply import Applier
from provision.postgres.ledger import PostgresLedger
from tests.postgres.io_steps import plan, settings


def main(database: str, victim: str, fatal: str) -> None:
    def hook(step: str, phase: str) -> None:
        if (step, phase) == (victim, fatal):
            os.kill(os.getpid(), signal.SIGKILL)

    session = connect.connect(settings(json.loads(database)))
    ledger = PostgresLedger(session, "agents", "dev")
    ledger.prepare()
    with ledger.hold():
        Applier(session, ledger, lambda reference: "", hook=hook).run(plan())


if __name__ == "__main__":
    main(*sys.argv[1:])
