"""Lint of hand-written migrations: what a statement locks, reads, rewrites and loses, and its safe form. Pure."""

from provision.migrate.lint.registry import RULES, lint

__all__ = ["RULES", "lint"]
