"""Connection pools: their declaration, sizing, budgets, connection forms and PgBouncer files. Pure."""
