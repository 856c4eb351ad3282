"""Named places between two effects, where a test may stop the process. Nothing happens there otherwise.

``put.sent``, ``put.noted``, ``edit.recorded``, ``edit.written``, ``flush.read``, ``flush.committed``,
``flush.acknowledged``, ``checkpoint.read``, ``checkpoint.stored``, ``restore.recorded``, ``restore.written``,
``agent.stored``, ``agent.committed``.
"""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def reach(name: str) -> None:
    """Tell the hook, if a test has set one, that the place ``name`` is reached."""
    if _hook is not None:
        _hook(name)


def set_hook(hook: Callable[[str], None] | None) -> None:
    """For tests: what to call at every place; None for nothing."""
    global _hook  # noqa: PLW0603 - the one seam for crash tests; production never sets it
    _hook = hook
