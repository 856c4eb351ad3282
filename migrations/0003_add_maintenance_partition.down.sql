-- version: 1.2.0
-- description: Tasks of type maintenance go back to the DEFAULT partition; one that others refer to stops this

ALTER TABLE tasks.queue DETACH PARTITION tasks.queue_maintenance;
INSERT INTO tasks.queue SELECT * FROM tasks.queue_maintenance;
DROP TABLE tasks.queue_maintenance;
