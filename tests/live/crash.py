"""Apply a plan and die by SIGKILL at a given step and phase.

Run as: python crash.py SPECS CACHE STEP PHASE [CONSENT…]
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from provision.reconcile import open_plane


def main(specs: str, cache: str, step: str, phase: str, *consents: str) -> None:
    def hook(at: str, now: str) -> None:
        if (at, now) == (step, phase):
            os.kill(os.getpid(), signal.SIGKILL)

    with open_plane(Path(specs), "dev", cache=Path(cache)) as plane:
        plan = plane.plan(clock=datetime.now(UTC))
        plane.apply(plan, allowed=consents, hook=hook)


if __name__ == "__main__":
    main(*sys.argv[1:])
