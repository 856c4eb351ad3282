"""The kinds of PostgreSQL objects. Pure: what each is, how it is read, changed and undone."""
