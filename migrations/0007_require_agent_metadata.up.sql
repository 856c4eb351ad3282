-- version: 1.6.0
-- description: Metadata is there and valid, or the row is refused (contract)
-- depends-on: 1.5.0
-- transaction: none
-- kind: schema
-- covered-by: specs

ALTER TABLE agents.registry ADD CONSTRAINT holdfast_not_null_registry_metadata CHECK (metadata IS NOT NULL) NOT VALID;
ALTER TABLE agents.registry VALIDATE CONSTRAINT holdfast_not_null_registry_metadata;
DO $do$
BEGIN
  ALTER TABLE agents.registry ALTER COLUMN metadata SET NOT NULL;
  ALTER TABLE agents.registry DROP CONSTRAINT holdfast_not_null_registry_metadata;
END
$do$;
ALTER TABLE agents.registry ADD CONSTRAINT valid_metadata CHECK (agents.validate_agent_metadata(metadata)) NOT VALID;
ALTER TABLE agents.registry VALIDATE CONSTRAINT valid_metadata;
