-- version: 1.4.0

ALTER TABLE agents.registry ALTER COLUMN metadata DROP DEFAULT;
