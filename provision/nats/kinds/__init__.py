"""The kinds of the NATS half. Pure: field tables, server defaults, mutability by version, requests."""
