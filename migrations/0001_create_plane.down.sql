-- version: 1.0.0

-- ! data_loss: all rows of change_log are lost
DROP TABLE audit.change_log;

-- ! data_loss: all rows of query_plans are lost
DROP TABLE monitoring.query_plans;

-- ! data_loss: all rows of test_results are lost
DROP TABLE recovery.test_results;

DROP SCHEMA recovery;

-- ! data_loss: all rows of decisions are lost
DROP TABLE runtime.decisions;

-- ! data_loss: all rows of inbox are lost
DROP TABLE runtime.inbox;

-- ! data_loss: all rows of outbox are lost
DROP TABLE runtime.outbox;

DROP TYPE runtime.verdict;

DROP FUNCTION agents.hydrate_agent_state(uuid);
DROP FUNCTION agents.validate_agent_metadata(jsonb);

DROP FUNCTION monitoring.check_connection_pool_health();

DROP FUNCTION runtime.delete_expired(integer);
DROP FUNCTION runtime.wake_outbox_relay();

DROP VIEW monitoring.connection_stats;

DROP SCHEMA monitoring;

DROP VIEW partitions.coverage;

DROP SCHEMA partitions;

ALTER TABLE knowledge.embeddings DROP CONSTRAINT embeddings_fact_fkey;
-- ! data_loss: all rows of embeddings are lost
DROP TABLE knowledge.embeddings;

DROP EXTENSION vector;

ALTER TABLE runtime.saga_steps DROP CONSTRAINT saga_steps_saga_fkey;
-- ! data_loss: all rows of saga_steps are lost
DROP TABLE runtime.saga_steps;

-- ! data_loss: all rows of sagas are lost
DROP TABLE runtime.sagas;

DROP TYPE runtime.saga_state;
DROP TYPE runtime.step_state;

DROP SCHEMA runtime;

ALTER TABLE agents.state DROP CONSTRAINT state_agent_fkey;
-- ! data_loss: all rows of state are lost
DROP TABLE agents.state;

ALTER TABLE agents.checkpoints DROP CONSTRAINT checkpoints_agent_fkey;
-- ! data_loss: all rows of checkpoints are lost
DROP TABLE agents.checkpoints;

ALTER TABLE agents.lifecycle_events DROP CONSTRAINT lifecycle_events_agent_fkey;
ALTER TABLE agents.lifecycle_events DROP CONSTRAINT lifecycle_events_triggered_by_fkey;
-- ! data_loss: all rows of lifecycle_events are lost
DROP TABLE agents.lifecycle_events;

ALTER TABLE knowledge.facts DROP CONSTRAINT facts_source_agent_fkey;
-- ! data_loss: all rows of facts are lost
DROP TABLE knowledge.facts;

DROP SCHEMA knowledge;

ALTER TABLE messages.subscriptions DROP CONSTRAINT subscriptions_agent_fkey;
ALTER TABLE messages.subscriptions DROP CONSTRAINT subscriptions_channel_fkey;
-- ! data_loss: all rows of subscriptions are lost
DROP TABLE messages.subscriptions;

ALTER TABLE sessions.active DROP CONSTRAINT active_agent_fkey;
-- ! data_loss: all rows of active are lost
DROP TABLE sessions.active;

DROP SCHEMA sessions;

ALTER TABLE messages.log DROP CONSTRAINT log_channel_fkey;

-- ! data_loss: all rows of channels are lost
DROP TABLE messages.channels;

ALTER TABLE messages.log DROP CONSTRAINT log_from_agent_fkey;
ALTER TABLE messages.log DROP CONSTRAINT log_to_agent_fkey;
-- ! data_loss: all rows of log are lost
DROP TABLE messages.log;

DROP TYPE messages.message_type;

DROP DOMAIN messages.message_id_type;

DROP SCHEMA messages;

ALTER TABLE tasks.queue DROP CONSTRAINT queue_assigned_agent_fkey;
ALTER TABLE tasks.queue DROP CONSTRAINT queue_created_by_agent_fkey;

ALTER TABLE tasks.dependencies DROP CONSTRAINT dependencies_depends_on_fkey;
ALTER TABLE tasks.dependencies DROP CONSTRAINT dependencies_task_fkey;
-- ! data_loss: all rows of dependencies are lost
DROP TABLE tasks.dependencies;

ALTER TABLE tasks.executions DROP CONSTRAINT executions_agent_fkey;

-- ! data_loss: all rows of registry are lost
DROP TABLE agents.registry;

DROP TYPE agents.agent_status_type;

DROP FUNCTION audit.record_change();

ALTER TABLE tasks.executions DROP CONSTRAINT executions_task_fkey;
-- ! data_loss: all rows of executions are lost
DROP TABLE tasks.executions;

-- ! data_loss: all rows of queue are lost
DROP TABLE tasks.queue;

DROP TYPE tasks.task_priority_type;
DROP TYPE tasks.task_status_type;

DROP DOMAIN agents.agent_id_type;

DROP SCHEMA agents;

DROP DOMAIN tasks.task_id_type;

DROP SCHEMA tasks;

DROP FUNCTION audit.touch_updated_at();

DROP SCHEMA audit;
