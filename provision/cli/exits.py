"""Exit codes, in one place, and which error leads to which."""

from __future__ import annotations

from provision.spec.errors import ConsentError, StalePlanError, UnreachableError

DONE = 0
FAILED = 1
PENDING = 2
CONSENT = 3
STALE = 4
UNREACHABLE = 5
INTERRUPTED = 130

_BY_ERROR: tuple[tuple[type[Exception], int], ...] = (
    (ConsentError, CONSENT),
    (StalePlanError, STALE),
    (UnreachableError, UNREACHABLE),
)


def code_of(error: Exception) -> int:
    """The exit code for an error that ended a command."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), FAILED)
