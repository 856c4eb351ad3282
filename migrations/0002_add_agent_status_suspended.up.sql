-- version: 1.1.0
-- description: Agents can be suspended
-- kind: schema
-- covered-by: specs
-- transaction: none

ALTER TYPE agents.agent_status_type ADD VALUE IF NOT EXISTS 'suspended' AFTER 'idle';
