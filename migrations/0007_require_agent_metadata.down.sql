-- version: 1.6.0

ALTER TABLE agents.registry DROP CONSTRAINT valid_metadata;
ALTER TABLE agents.registry ALTER COLUMN metadata DROP NOT NULL;
