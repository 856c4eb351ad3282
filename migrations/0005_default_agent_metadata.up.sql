-- version: 1.4.0
-- description: New agents get valid metadata unasked (expand)
-- kind: schema
-- covered-by: specs

ALTER TABLE agents.registry ALTER COLUMN metadata SET DEFAULT jsonb_build_object('created_at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), 'version', '1.0.0');
