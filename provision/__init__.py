"""Holdfast: one declarative provisioner for a NATS JetStream and PostgreSQL data plane."""

__version__ = "0.1.0"
