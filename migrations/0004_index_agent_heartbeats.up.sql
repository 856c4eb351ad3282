-- version: 1.3.0
-- description: Find the active agents that have not been heard of
-- kind: index
-- covered-by: specs
-- transaction: none

CREATE INDEX CONCURRENTLY idx_agents_registry_heartbeat ON agents.registry (last_heartbeat) WHERE status = 'active';
