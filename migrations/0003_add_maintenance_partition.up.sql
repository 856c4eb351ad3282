-- version: 1.2.0
-- description: Keep tasks of type maintenance in a partition of their own
-- kind: partition
-- covered-by: specs
-- transaction: none
-- assert-before default_has_none: SELECT NOT EXISTS (SELECT 1 FROM tasks.queue_default WHERE task_type = 'maintenance')

CREATE TABLE tasks.queue_maintenance (
  LIKE tasks.queue INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION,
  CONSTRAINT is_maintenance CHECK (task_type = 'maintenance')
)
WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.01', fillfactor = 80);

-- Proven first, so that ATTACH need not search the DEFAULT partition under its lock.
ALTER TABLE tasks.queue_default ADD CONSTRAINT no_maintenance CHECK (task_type <> 'maintenance') NOT VALID;
ALTER TABLE tasks.queue_default VALIDATE CONSTRAINT no_maintenance;

ALTER TABLE tasks.queue ATTACH PARTITION tasks.queue_maintenance FOR VALUES IN ('maintenance');
ALTER TABLE tasks.queue_default DROP CONSTRAINT no_maintenance;
ALTER TABLE tasks.queue_maintenance DROP CONSTRAINT is_maintenance;
