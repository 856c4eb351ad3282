-- version: 1.1.0
-- allow HF0845: the constraint has to go and come back with the type; the table is locked for the rewrite anyway
-- transaction: none
-- assert-before none_is_suspended: SELECT NOT EXISTS (SELECT 1 FROM agents.registry WHERE status = 'suspended') AND NOT EXISTS (SELECT 1 FROM agents.lifecycle_events WHERE 'suspended' IN (previous_status, new_status))

ALTER TABLE agents.lifecycle_events DROP CONSTRAINT status_change;

DROP INDEX CONCURRENTLY IF EXISTS agents.idx_agents_registry_active;
DROP TRIGGER registry_audit ON agents.registry;

-- ! rewrite: values are taken away (suspended): every column of this type is rewritten; the step fails while a row holds a removed value
DO $do$
BEGIN
  ALTER TYPE agents.agent_status_type RENAME TO agent_status_type__replaced;
  CREATE TYPE agents.agent_status_type AS ENUM ('initializing', 'active', 'idle', 'terminated', 'error');
  ALTER TABLE agents.registry ALTER COLUMN status DROP DEFAULT;
  ALTER TABLE agents.registry ALTER COLUMN status TYPE agents.agent_status_type USING status::text::agents.agent_status_type;
  ALTER TABLE agents.registry ALTER COLUMN status SET DEFAULT 'initializing'::agents.agent_status_type;
  ALTER TABLE agents.lifecycle_events ALTER COLUMN previous_status TYPE agents.agent_status_type USING previous_status::text::agents.agent_status_type;
  ALTER TABLE agents.lifecycle_events ALTER COLUMN new_status TYPE agents.agent_status_type USING new_status::text::agents.agent_status_type;
  DROP TYPE agents.agent_status_type__replaced;
END
$do$;

ALTER TABLE agents.lifecycle_events ADD CONSTRAINT status_change CHECK ((((previous_status IS NULL) AND (new_status IS NULL)) OR (previous_status IS DISTINCT FROM new_status))) NOT VALID;
ALTER TABLE agents.lifecycle_events VALIDATE CONSTRAINT status_change;

CREATE INDEX CONCURRENTLY idx_agents_registry_active ON agents.registry (agent_type, updated_at) WHERE (status = 'active'::agents.agent_status_type);
CREATE TRIGGER registry_audit
  AFTER INSERT OR DELETE OR UPDATE OF agent_name, agent_type, capabilities, configuration, metadata, parent_agent_id, status ON agents.registry
  FOR EACH ROW
  EXECUTE FUNCTION audit.record_change();
