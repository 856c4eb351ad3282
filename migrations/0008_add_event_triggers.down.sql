-- version: 1.7.0

DROP TRIGGER trigger_agent_heartbeat_nats_notify ON agents.registry;

DROP FUNCTION runtime.publish_heartbeat();

DROP TRIGGER trigger_agent_state_nats_notify ON agents.state;

DROP FUNCTION runtime.publish_state_change();

DROP TRIGGER trigger_agent_lifecycle_nats_notify ON agents.lifecycle_events;

DROP FUNCTION runtime.publish_lifecycle_event();

DROP TRIGGER trigger_task_lifecycle_nats_notify ON tasks.queue;

DROP FUNCTION runtime.publish_task_change();
