-- version: 1.3.0
-- transaction: none

DROP INDEX CONCURRENTLY IF EXISTS agents.idx_agents_registry_heartbeat;
