"""The one place that joins the stages: load, check, observe, plan, apply. CLI, Pulumi and tests call it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provision.reconcile.checking import check
    from provision.reconcile.session import open_plane

__all__ = ["check", "open_plane"]

_HOMES = {"check": "checking", "open_plane": "session"}


def __getattr__(name: str) -> object:
    """Load a stage when it is first used: check needs no driver, plan no checker of pools."""
    if name not in _HOMES:
        raise AttributeError(name)
    import importlib

    return getattr(importlib.import_module(f"provision.reconcile.{_HOMES[name]}"), name)
