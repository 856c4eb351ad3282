"""Machinery of the spec language: positions, diagnostics, records, fields, units. It knows no kind."""
