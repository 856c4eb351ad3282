"""The PostgreSQL half: pure kinds (fields, catalog queries, DDL) and the thin I/O around them."""
